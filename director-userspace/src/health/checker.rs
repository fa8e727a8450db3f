//! The set of probes, and the threads they run on.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    io,
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::{Arc, Weak, mpsc},
    thread,
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{runtime, sync::oneshot, task::AbortHandle};

use super::{
    AgentReport, AgentTarget, Health, Target,
    agent::{AgentCell, PreparedAgent},
    events::{Events, Queue, QueueEntry, Source},
    failure::Failure,
    limits::raise_descriptors,
    probe::{Common, Destination, Prepared},
    schedule::{ProbeSchedule, start_window},
    streak::CheckCell,
};
use crate::policy::{
    config::model::{Agent, AgentSource, HealthCheck, Percent, Probe},
    health_policy::HealthState,
};

/// How long a stopping checker waits for its probes to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// The configuration has no jitter for agents.
const AGENT_JITTER: Percent = Percent(5);

/// All probes. They end when it is dropped.
pub struct Checker {
    queue: Arc<Queue>,
    common: Arc<Common>,
    checks: ByTarget<Target, CheckCell>,
    agents: ByTarget<AgentTarget, AgentCell>,
    prepared: HashMap<Arc<HealthCheck>, Weak<Prepared>>,
    prepared_agents: HashMap<Arc<Agent>, Weak<PreparedAgent>>,
    network: ProbeThread,
    /// Starting a program can hang in the file system; that delays no other kind of probe.
    programs: ProbeThread,
}

/// Probes by target.
type ByTarget<T, C> = HashMap<Arc<T>, Running<C>>;

/// A repeating probe; ends when this is dropped.
struct Running<C: Queued> {
    cell: Arc<C>,
    task: AbortHandle,
}

/// A probe that can be in the queue of events.
trait Queued {
    fn queue_entry(&self) -> &QueueEntry;
}

impl Queued for CheckCell {
    fn queue_entry(&self) -> &QueueEntry {
        &self.queue_entry
    }
}

impl Queued for AgentCell {
    fn queue_entry(&self) -> &QueueEntry {
        &self.queue_entry
    }
}

impl<C: Queued> Drop for Running<C> {
    fn drop(&mut self) {
        self.cell.queue_entry().remove();
        self.task.abort();
    }
}

/// The key of probes that differ only in their times and therefore observe the same state.
type SameProbe<'a> = (&'a Probe, IpAddr, Option<u16>, Option<u32>);

fn same_probe(target: &Target) -> SameProbe<'_> {
    (&target.check.probe, target.address, target.port, target.mark)
}

impl Checker {
    /// A checker without targets, and the receiver of its events. Raises this process's soft limit
    /// of file descriptors to the hard limit.
    ///
    /// # Errors
    /// If a thread or an event queue cannot be created.
    pub fn new() -> io::Result<(Self, Events)> {
        raise_descriptors();
        let queue = Arc::new(Queue::default());
        let checker = Self {
            queue: queue.clone(),
            common: Arc::default(),
            checks: HashMap::new(),
            agents: HashMap::new(),
            prepared: HashMap::new(),
            prepared_agents: HashMap::new(),
            network: ProbeThread::start("health")?,
            programs: ProbeThread::start("health-exec")?,
        };
        Ok((checker, Events(queue)))
    }

    /// Replaces the targets and agents. Existing ones continue unchanged; the others end. The
    /// initial state of a new target is the one from `initial`, else that of an existing probe of
    /// the same address which differs only in its times, else its check's `start`.
    pub fn set(
        &mut self,
        targets: impl IntoIterator<Item = Target>,
        agents: impl IntoIterator<Item = AgentTarget>,
        initial: &dyn Fn(&Target) -> Option<HealthState>,
    ) {
        let (new, gone) = exchange(&mut self.checks, targets);
        let window = start_window(new.len());
        let known: HashMap<SameProbe<'_>, HealthState> = gone
            .iter()
            .filter(|(_, running)| running.cell.is_probed())
            .map(|(target, running)| (same_probe(target), running.cell.health().state))
            .collect();
        for target in new {
            let state = initial(&target)
                .or_else(|| known.get(&same_probe(&target)).copied())
                .unwrap_or_else(|| target.check.start.into());
            let cell = Arc::new(CheckCell::new(target.clone(), state));
            let prepared = prepare(&mut self.prepared, &target.check, Prepared::new);
            let thread = match target.check.probe {
                Probe::Exec(_) => &self.programs,
                _ => &self.network,
            };
            let (queue, common) = (self.queue.clone(), self.common.clone());
            let task = thread.spawn(repeat(cell.clone(), prepared, common, queue, window));
            self.checks.insert(target, Running { cell, task });
        }
        self.prepared.retain(|_, prepared| prepared.strong_count() > 0);
        self.set_agents(agents);
    }

    fn set_agents(&mut self, agents: impl IntoIterator<Item = AgentTarget>) {
        let (new, _) = exchange(&mut self.agents, agents);
        let window = start_window(new.len());
        for target in new {
            let cell = Arc::new(AgentCell::new(target.clone()));
            let prepared = prepare(&mut self.prepared_agents, &target.agent, PreparedAgent::new);
            let thread = match target.agent.source {
                AgentSource::Exec(_) => &self.programs,
                _ => &self.network,
            };
            let (queue, common) = (self.queue.clone(), self.common.clone());
            let task = thread.spawn(repeat_agent(cell.clone(), prepared, common, queue, window));
            self.agents.insert(target, Running { cell, task });
        }
        self.prepared_agents.retain(|_, prepared| prepared.strong_count() > 0);
    }

    /// The health of `target`; none if it is not among the targets.
    pub fn health(&self, target: &Target) -> Option<Health> {
        self.checks.get(target).map(|running| running.cell.health())
    }

    /// The state of an agent; none if it is not among the agents.
    pub fn agent(&self, target: &AgentTarget) -> Option<AgentReport> {
        self.agents.get(target).map(|running| running.cell.report())
    }

    /// Every target and its health, in no order.
    pub fn targets(&self) -> impl Iterator<Item = (&Arc<Target>, Health)> {
        self.checks.iter().map(|(target, running)| (target, running.cell.health()))
    }

    /// How many targets and agents have not been probed yet.
    pub fn unsettled(&self) -> usize {
        self.checks.values().filter(|running| !running.cell.is_probed()).count()
            + self.agents.values().filter(|running| !running.cell.is_queried()).count()
    }

    /// Whether each target and agent has been probed once, whatever the result.
    pub fn is_settled(&self) -> bool {
        self.unsettled() == 0
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.checks.clear();
        self.agents.clear();
        self.network.stop();
        self.programs.stop();
        self.queue.close();
    }
}

/// Keeps the probes of `running` that are in `wanted`. Returns the wanted targets that do not run
/// yet, each once, and the probes that are not wanted.
fn exchange<T: Hash + Eq, C: Queued>(
    running: &mut ByTarget<T, C>,
    wanted: impl IntoIterator<Item = T>,
) -> (HashSet<Arc<T>>, ByTarget<T, C>) {
    let mut before = std::mem::take(running);
    let mut new = HashSet::new();
    for target in wanted {
        if let Some((target, known)) = before.remove_entry(&target) {
            running.insert(target, known);
        } else if !running.contains_key(&target) {
            new.insert(Arc::new(target));
        }
    }
    (new, before)
}

/// Prepares `what` once for all targets that share it.
fn prepare<T: Hash + Eq, P>(
    known: &mut HashMap<Arc<T>, Weak<P>>,
    what: &Arc<T>,
    make: impl FnOnce(&T) -> P,
) -> Arc<P> {
    if let Some(prepared) = known.get(what).and_then(Weak::upgrade) {
        return prepared;
    }
    let prepared = Arc::new(make(what));
    known.insert(what.clone(), Arc::downgrade(&prepared));
    prepared
}

/// Probes until the task is aborted.
async fn repeat(
    cell: Arc<CheckCell>,
    prepared: Arc<Prepared>,
    common: Arc<Common>,
    queue: Arc<Queue>,
    window: Duration,
) {
    let Target { check, address, port, mark } = &*cell.target;
    let to = Destination { address: *address, port: *port, mark: *mark };
    let mut schedule = ProbeSchedule::new(check.interval, check.jitter, window);
    loop {
        schedule.wait().await;
        if cell.record(guarded(|| prepared.probe(to, &common)).await) {
            queue.push(Source::Check(cell.clone()));
        }
    }
}

/// Runs a probe. A panic in it does not end the probing of its target.
async fn guarded<T, F>(probe: impl FnOnce() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    // On the heap only while it runs: most of thousands of targets are waiting at any time.
    let probe = Box::pin(probe());
    // A panic leaves no shared state half changed: see `lock`.
    AssertUnwindSafe(probe).catch_unwind().await.unwrap_or_else(|_| {
        Err(Failure::host("not probed: internal error of director, see its log"))
    })
}

/// Queries until the task is aborted.
async fn repeat_agent(
    cell: Arc<AgentCell>,
    prepared: Arc<PreparedAgent>,
    common: Arc<Common>,
    queue: Arc<Queue>,
    window: Duration,
) {
    let mut schedule = ProbeSchedule::new(cell.target.agent.interval, AGENT_JITTER, window);
    loop {
        schedule.wait().await;
        if cell.record(guarded(|| prepared.query(&cell.target, &common)).await) {
            queue.push(Source::Agent(cell.clone()));
        }
    }
}

/// A thread with a runtime of its own.
struct ProbeThread {
    handle: runtime::Handle,
    stop: Option<oneshot::Sender<()>>,
    stopped: mpsc::Receiver<()>,
}

impl ProbeThread {
    fn start(name: &str) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stops) = oneshot::channel::<()>();
        let (gone, stopped) = mpsc::channel();
        thread::Builder::new().name(name.into()).spawn(move || {
            // Ends when the sender sends or is dropped.
            let _ = runtime.block_on(stops);
            // Does not wait for a hanging name service or disk.
            runtime.shutdown_background();
            let _ = gone.send(());
        })?;
        Ok(Self { handle, stop: Some(stop), stopped })
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.handle.spawn(task).abort_handle()
    }

    /// Ends every task; started programs are killed.
    fn stop(&mut self) {
        self.stop.take();
        let _ = self.stopped.recv_timeout(STOP_TIMEOUT);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, Ipv4Addr, TcpListener},
        time::Instant,
    };

    use super::*;
    use crate::{
        health::Event,
        policy::config::model::{HealthCheck, Percent, Probe, Start, Via},
    };

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn target(port: u16, start: Start, rise: u16, fall: u16) -> Target {
        let check = HealthCheck {
            probe: Probe::Tcp,
            interval: Duration::from_millis(100),
            timeout: Duration::from_millis(100),
            rise,
            fall,
            jitter: Percent(0),
            start,
            port: None,
            via: Via::Direct,
        };
        Target { check: Arc::new(check), address: HERE, port: Some(port), mark: None }
    }

    /// The next event, which is one of a check.
    fn next(events: &mut Events) -> (Arc<Target>, Health) {
        let runtime = runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let event = runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(5), events.recv()).await });
        match event.expect("an event within 5 s").expect("the checker is running") {
            Event::Check { target, health } => (target, health),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_backend_goes_down_and_comes_up_again() {
        let (mut checker, mut events) = Checker::new().unwrap();
        let listener = TcpListener::bind((HERE, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let wanted = target(port, Start::Down, 2, 3);
        checker.set([wanted.clone(), wanted.clone()], [], &|_| None);
        assert!(!checker.is_settled() || checker.health(&wanted).unwrap().probes > 0);

        let (of, health) = next(&mut events);
        assert_eq!(*of, wanted);
        let first = (HealthState::Down, Some(true), 1);
        assert_eq!((health.state, health.good, health.streak), first, "the first");
        let (_, health) = next(&mut events);
        assert_eq!((health.state, health.streak, health.changes), (HealthState::Up, 2, 1));
        assert_eq!(health.reason, "");
        assert!(health.latency.unwrap() < Duration::from_millis(100));
        assert!(checker.is_settled());

        drop(listener);
        let closed = Instant::now();
        let (_, health) = next(&mut events);
        assert!(closed.elapsed() <= Duration::from_millis(3 * 100 + 100), "{:?}", closed.elapsed());
        let refused = (HealthState::Down, "connection refused");
        assert_eq!((health.state, health.reason.as_str()), refused);
        assert_eq!((health.streak, health.failures, health.changes), (3, 3, 2));

        let _again = TcpListener::bind((HERE, port)).unwrap();
        let (_, health) = next(&mut events);
        assert_eq!(health.state, HealthState::Up);
    }

    #[test]
    fn initial_states_are_taken_over_and_removed_targets_emit_no_events() {
        let (mut checker, mut events) = Checker::new().unwrap();
        let unused = TcpListener::bind((HERE, 0)).unwrap().local_addr().unwrap().port();
        let (up, down) = (target(unused, Start::Up, 1, 500), target(unused, Start::Down, 1, 501));
        checker.set([up.clone(), down.clone()], [], &|target| {
            (target.check.start == Start::Down).then_some(HealthState::Up)
        });
        for target in [&up, &down] {
            assert_eq!(checker.health(target).unwrap().state, HealthState::Up);
        }
        let before = checker.health(&up).unwrap().since;
        next(&mut events);
        next(&mut events);

        // The same target set again continues: no new start, no new first result.
        checker.set([up.clone()], [], &|_| Some(HealthState::Down));
        assert_eq!(checker.health(&up).unwrap().since, before);
        assert_eq!(checker.health(&down), None);
        checker.set([], [], &|_| None);
        assert!(events.try_recv().is_none());
        drop(checker);
        let runtime = runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(runtime.block_on(events.recv()), None);
    }
}
