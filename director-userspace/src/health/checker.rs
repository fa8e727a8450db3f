//! The set of probes, and the thread they run on.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use tokio::{runtime, sync::oneshot, task::AbortHandle};

use super::{
    AgentReport, AgentTarget, Health, Target,
    events::{Events, Queue, Source},
    probe::probe,
    schedule::{Beats, start_window},
    streak::CheckCell,
};
use crate::config::model::Start;

/// How long the end of a checker waits for its probes to be gone.
const END: Duration = Duration::from_secs(2);

/// All probes. They end with it.
pub struct Checker {
    queue: Arc<Queue>,
    checks: HashMap<Arc<Target>, Running>,
    thread: ProbeThread,
}

/// A probe that repeats.
struct Running {
    cell: Arc<CheckCell>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cell.place.leave();
        self.task.abort();
    }
}

impl Checker {
    /// A checker without targets, and where its news come out. Fails if the system gives no thread or
    /// no event queue.
    pub fn new() -> io::Result<(Self, Events)> {
        let queue = Arc::new(Queue::default());
        let checker =
            Self { queue: queue.clone(), checks: HashMap::new(), thread: ProbeThread::start()? };
        Ok((checker, Events(queue)))
    }

    /// Makes these the targets and agents. Known ones go on undisturbed; others end. A new target is
    /// taken for what `remembered` says, else for what is known of the same probe at the same place
    /// where only its times were changed, else for what its check's `start` says.
    pub fn set(
        &mut self,
        targets: impl IntoIterator<Item = Target>,
        agents: impl IntoIterator<Item = AgentTarget>,
        remembered: &dyn Fn(&Target) -> Option<bool>,
    ) {
        let mut before = std::mem::take(&mut self.checks);
        let mut new = Vec::new();
        for target in targets {
            if self.checks.contains_key(&target) {
                continue;
            }
            match before.remove_entry(&target) {
                Some((target, running)) => {
                    self.checks.insert(target, running);
                }
                None => new.push(Arc::new(target)),
            }
        }
        let window = start_window(new.len());
        for target in new {
            if self.checks.contains_key(&target) {
                continue;
            }
            let up = remembered(&target).unwrap_or(target.check.start == Start::Up);
            let cell = Arc::new(CheckCell::new(target.clone(), up));
            let task = self.thread.spawn(repeat(cell.clone(), self.queue.clone(), window));
            self.checks.insert(target, Running { cell, task });
        }
        let _ = agents.into_iter();
    }

    /// What is known of `target`; none if it is not among the targets.
    pub fn health(&self, target: &Target) -> Option<Health> {
        self.checks.get(target).map(|running| running.cell.health())
    }

    /// What is known of an agent; none if it is not among them or has not been asked yet.
    pub fn agent(&self, _target: &AgentTarget) -> Option<AgentReport> {
        None
    }

    /// Every target, and what is known of it, in no order.
    pub fn targets(&self) -> impl Iterator<Item = (&Arc<Target>, Health)> {
        self.checks.iter().map(|(target, running)| (target, running.cell.health()))
    }

    /// How many targets and agents have not been asked once.
    pub fn unsettled(&self) -> usize {
        self.checks.values().filter(|running| !running.cell.is_asked()).count()
    }

    /// Whether each target and agent has been asked once.
    pub fn is_settled(&self) -> bool {
        self.unsettled() == 0
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.checks.clear();
        self.thread.stop();
        self.queue.close();
    }
}

/// Probes until it is aborted.
async fn repeat(cell: Arc<CheckCell>, queue: Arc<Queue>, window: Duration) {
    let check = &cell.target.check;
    let mut beats = Beats::new(check.interval, check.jitter, window);
    loop {
        beats.wait().await;
        if cell.record(probe(&cell.target).await) {
            queue.push(Source::Check(cell.clone()));
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
    fn start() -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stops) = oneshot::channel::<()>();
        let (gone, stopped) = mpsc::channel();
        thread::Builder::new().name("health".into()).spawn(move || {
            // Either word for the end: sent, or its sender gone.
            let _ = runtime.block_on(stops);
            // Does not wait for a program's start, or a user's name, that hangs in the system.
            runtime.shutdown_background();
            let _ = gone.send(());
        })?;
        Ok(Self { handle, stop: Some(stop), stopped })
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.handle.spawn(task).abort_handle()
    }

    /// Ends every task: programs that were started are killed.
    fn stop(&mut self) {
        self.stop.take();
        let _ = self.stopped.recv_timeout(END);
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
        config::model::{HealthCheck, Percent, Probe, Via},
        health::Event,
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
        match event.expect("an event within 5 s").expect("the checker lives") {
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
        assert_eq!((health.up, health.good, health.streak), (false, Some(true), 1), "the first");
        let (_, health) = next(&mut events);
        assert_eq!((health.up, health.streak, health.changes), (true, 2, 1));
        assert_eq!(health.reason, "");
        assert!(health.latency.unwrap() < Duration::from_millis(100));
        assert!(checker.is_settled());

        drop(listener);
        let died = Instant::now();
        let (_, health) = next(&mut events);
        assert!(died.elapsed() <= Duration::from_millis(3 * 100 + 100), "{:?}", died.elapsed());
        assert_eq!((health.up, health.reason.as_str()), (false, "connection refused"));
        assert_eq!((health.streak, health.failures, health.changes), (3, 3, 2));

        let _again = TcpListener::bind((HERE, port)).unwrap();
        let (_, health) = next(&mut events);
        assert!(health.up);
    }

    #[test]
    fn what_was_known_is_remembered_and_what_is_gone_is_silent() {
        let (mut checker, mut events) = Checker::new().unwrap();
        let nobody = TcpListener::bind((HERE, 0)).unwrap().local_addr().unwrap().port();
        let (up, down) = (target(nobody, Start::Up, 1, 500), target(nobody, Start::Down, 1, 501));
        checker.set([up.clone(), down.clone()], [], &|target| {
            (target.check.start == Start::Down).then_some(true)
        });
        assert!(checker.health(&up).unwrap().up && checker.health(&down).unwrap().up);
        let before = checker.health(&up).unwrap().since;
        next(&mut events);
        next(&mut events);

        // The same, said again, goes on: no new start, no new first result.
        checker.set([up.clone()], [], &|_| Some(false));
        assert_eq!(checker.health(&up).unwrap().since, before);
        assert_eq!(checker.health(&down), None);
        checker.set([], [], &|_| None);
        assert!(events.try_recv().is_none());
        drop(checker);
        let runtime = runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(runtime.block_on(events.recv()), None);
    }
}
