//! The common part of `trace` and `capture`: options, and the loop that reads packets.

use std::time::{Duration, Instant, SystemTime};

use director_common::trace::TRACE_LEASE_NS;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{InstanceName, explained, print_message};
use crate::{
    inspect::trace::{Event, Filter, Names},
    kernel::datapath::{Datapath, Trace, TraceCounts, clock_ns},
    policy::config::units::parse_duration,
};

/// How often the ring is read: it has room for a tenth of a second of a million packets per second.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// How often the trace is renewed: several times per lease.
const RENEW_INTERVAL: Duration = Duration::from_nanos(TRACE_LEASE_NS / 5);
/// How often the names of services are read again.
const NAMES_INTERVAL: Duration = Duration::from_secs(2);
/// Most records read before timers and signals are checked.
const MAX_BATCH: usize = 512;

/// The options: which packets, and for how long.
#[derive(Debug, clap::Args)]
pub(super) struct WatchArgs {
    /// Only these packets: `tcp`, `udp`, `client PREFIX`, `client-port N`, `vip PREFIX`, `port N`,
    /// `service NAME`, `backend ADDRESS`, `verdict tx|redirect|reply|pass|drop|REASON`; all
    /// conditions must match, of several verdicts one
    #[arg(long, value_name = "WORDS", default_value = "")]
    filter: Filter,
    /// Only packets that are dropped
    #[arg(long)]
    drops: bool,
    /// Trace one in N packets (chosen at random, before the filter), to limit the load on a busy
    /// director
    #[arg(long, value_name = "1/N", default_value = "1/1", value_parser = sample)]
    sample: u64,
    /// End after N packets
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this time: `30s`, `5m`
    #[arg(long, value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,
    #[command(flatten)]
    instance: InstanceName,
}

/// `1/1000`, or 1000.
fn sample(text: &str) -> Result<u64, String> {
    let number = text.strip_prefix("1/").unwrap_or(text);
    // The program counts in 32 bits.
    number.parse().ok().filter(|every| (1..=1 << 30).contains(every)).ok_or_else(|| {
        format!("{text:?} is not a share of packets: write 1/1000 for one in a thousand")
    })
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed =
        parse_duration(text).map_err(|problem| format!("{text:?} {problem}: write 30s or 5m"));
    parsed
        .and_then(|time| if time.is_zero() { Err("must be more than 0".into()) } else { Ok(time) })
}

/// The result of a watch.
pub(super) struct Ended {
    /// Packets that were delivered to the sink.
    pub(super) events: u64,
    /// The numbers of examined packets and of lost records.
    pub(super) counts: TraceCounts,
}

/// The receiver of packets. Its methods return false if the reader is gone.
pub(super) trait Sink {
    /// Processes a packet.
    fn event(&mut self, event: &Event) -> anyhow::Result<bool>;
    /// Called when no more packets are pending.
    fn pause(&mut self) -> anyhow::Result<bool>;
}

/// Delivers packets to `sink` until their number or the time is reached, or a signal arrives.
/// `snap` is the number of bytes of each frame.
///
/// # Errors
/// If packets cannot be traced, or `sink` fails.
pub(super) async fn watch(
    args: &WatchArgs,
    snap: u32,
    sink: &mut impl Sink,
) -> anyhow::Result<Ended> {
    let datapath = Datapath::open(&args.instance.instance).map_err(explained)?;
    let names = Names::read(&datapath);
    let mut filter = args.filter.clone();
    if args.drops {
        filter = filter.drops();
    }
    let filter = filter.lower(&names, snap)?;
    let mut signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
        .map(signal)
        .into_iter()
        .collect::<Result<Vec<Signal>, _>>()?;
    let mut trace = Trace::start(&datapath, args.sample, filter).map_err(explained)?;
    let mut reader = Reader { datapath, names, read: Instant::now(), events: 0, count: args.count };
    let began = Instant::now();
    let ends = args.duration.map(|time| began + time);
    let mut renewed = began;
    let mut running = true;
    while running {
        let mut drained = false;
        for _ in 0..MAX_BATCH {
            if !running {
                break;
            }
            match reader.next(&mut trace) {
                Read::Nothing => {
                    drained = true;
                    break;
                }
                Read::Unreadable => {}
                Read::Event(event) => running = sink.event(&event)? && !reader.is_enough(),
            }
        }
        running = running && ends.is_none_or(|end| Instant::now() < end);
        if renewed.elapsed() >= RENEW_INTERVAL {
            trace.renew()?;
            renewed = Instant::now();
        }
        if drained && running {
            running = sink.pause()?;
            tokio::select! {
                () = tokio::time::sleep(POLL_INTERVAL) => {}
                () = any(&mut signals) => running = false,
            }
        } else {
            // Signals are handled even while packets arrive without pause.
            tokio::select! {
                biased;
                () = any(&mut signals) => running = false,
                () = tokio::task::yield_now() => {}
            }
        }
    }
    trace.stop();
    let mut is_open = true;
    while is_open && !reader.is_enough() {
        match reader.next(&mut trace) {
            Read::Nothing => break,
            Read::Unreadable => {}
            Read::Event(event) => is_open = sink.event(&event)?,
        }
    }
    Ok(Ended { events: reader.events, counts: trace.counts()? })
}

async fn any(signals: &mut [Signal]) {
    let waiting = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
    let _ = futures_util::future::select_all(waiting).await;
}

/// Reads records and resolves names.
struct Reader {
    datapath: Datapath,
    names: Names,
    read: Instant,
    events: u64,
    count: Option<u64>,
}

enum Read {
    Nothing,
    Unreadable,
    Event(Box<Event>),
}

impl Reader {
    fn next(&mut self, trace: &mut Trace) -> Read {
        if self.read.elapsed() >= NAMES_INTERVAL {
            // Maps that grew have been replaced.
            if let Ok(datapath) = Datapath::open(&self.datapath.instance) {
                self.datapath = datapath;
            }
            self.names = Names::read(&self.datapath);
            self.read = Instant::now();
        }
        let offset = unix_ns().wrapping_sub(clock_ns());
        let mut event = None;
        if !trace.next(|bytes| event = Event::read(bytes, &self.names, offset)) {
            return Read::Nothing;
        }
        match event {
            Some(event) => {
                self.events += 1;
                Read::Event(Box::new(event))
            }
            None => Read::Unreadable,
        }
    }

    fn is_enough(&self) -> bool {
        self.count.is_some_and(|count| self.events >= count)
    }
}

/// CLOCK_REALTIME, nanoseconds.
pub(super) fn unix_ns() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Prints a summary to stderr.
pub(super) fn summary(what: &str, ended: &Ended) {
    let Ended { events, counts: TraceCounts { looked_at, lost } } = ended;
    let s = if *events == 1 { "" } else { "s" };
    print_message("note", &format!("{events} packet{s} {what}, {looked_at} examined"));
    if *lost > 0 {
        print_message(
            "warning",
            &format!(
                "{lost} records lost: packets arrived faster than they were read; narrow the filter, or \
                 --sample fewer"
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use director_common::verdict::Verdict;

    use super::*;

    #[test]
    fn shares_are_one_in_n() {
        assert_eq!((sample("1/1000"), sample("50"), sample("1/1")), (Ok(1000), Ok(50), Ok(1)));
        for text in ["0", "1/0", "2/3", "half", "", "1/9999999999"] {
            assert!(sample(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_reason_is_a_filter() {
        for word in Verdict::all().filter_map(Verdict::reason) {
            assert!(format!("verdict {word}").parse::<Filter>().is_ok(), "{word}");
        }
    }
}
