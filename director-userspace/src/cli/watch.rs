//! What `trace` and `capture` share: which packets, for how long, and the loop that reads them.

use std::time::{Duration, Instant, SystemTime};

use director_common::trace::TRACE_LEASE_NS;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{InstanceName, explained, say};
use crate::{
    inspect::trace::{Event, Filter, Names},
    kernel::datapath::{Datapath, Trace, TraceCounts, clock_ns},
    policy::config::units::parse_duration,
};

/// How often the ring is looked into: what it holds is a tenth of a second of a million packets a
/// second.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How often packets are asked for again: several times in a lease.
const RENEW_EVERY: Duration = Duration::from_nanos(TRACE_LEASE_NS / 5);
/// How often names of services are read again.
const NAMES_EVERY: Duration = Duration::from_secs(2);
/// Records read before anything else is looked at.
const AT_ONCE: usize = 512;

/// Which packets, and for how long.
#[derive(Debug, clap::Args)]
pub(super) struct Wanted {
    /// Only these packets: `tcp`, `udp`, `client PREFIX`, `client-port N`, `vip PREFIX`, `port N`,
    /// `service NAME`, `backend ADDRESS`, `verdict tx|redirect|reply|pass|drop|REASON`; all that is
    /// said must hold, of several verdicts one
    #[arg(long, value_name = "WORDS", default_value = "")]
    filter: Filter,
    /// Only packets that are dropped
    #[arg(long)]
    drops: bool,
    /// Look at one packet in so many (chosen at random, before the filter): of a busy director, all
    /// are a burden
    #[arg(long, value_name = "1/N", default_value = "1/1", value_parser = sample)]
    sample: u64,
    /// End after so many packets
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
    number
        .parse()
        .ok()
        .filter(|every| (1..=1 << 30).contains(every))
        .ok_or_else(|| format!("{text:?} is no share of packets: say 1/1000 for one in a thousand"))
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed =
        parse_duration(text).map_err(|problem| format!("{text:?} {problem}: say 30s or 5m"));
    parsed.and_then(|time| if time.is_zero() { Err("no time at all".into()) } else { Ok(time) })
}

/// How a watch ended.
pub(super) struct Ended {
    /// Packets that were handed on.
    pub(super) events: u64,
    /// What the program looked at, and what was lost.
    pub(super) counts: TraceCounts,
}

/// Where packets go. False says that nobody reads any more.
pub(super) trait Sink {
    /// Takes one.
    fn event(&mut self, event: &Event) -> anyhow::Result<bool>;
    /// There are no more for the moment.
    fn pause(&mut self) -> anyhow::Result<bool>;
}

/// Hands packets to `sink` until enough of them came, time is over, or a signal ends it. `snap` bytes
/// of each frame are wanted.
///
/// # Errors
/// What kept packets from being watched, or `sink` from taking them.
pub(super) async fn watch(
    wanted: &Wanted,
    snap: u32,
    sink: &mut impl Sink,
) -> anyhow::Result<Ended> {
    let datapath = Datapath::open(&wanted.instance.instance).map_err(explained)?;
    let names = Names::read(&datapath);
    let mut filter = wanted.filter.clone();
    if wanted.drops {
        filter = filter.drops();
    }
    let filter = filter.lower(&names, snap)?;
    let mut signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
        .map(signal)
        .into_iter()
        .collect::<Result<Vec<Signal>, _>>()?;
    let mut trace = Trace::start(&datapath, wanted.sample, filter).map_err(explained)?;
    let mut reader =
        Reader { datapath, names, read: Instant::now(), events: 0, count: wanted.count };
    let began = Instant::now();
    let ends = wanted.duration.map(|time| began + time);
    let mut renewed = began;
    let mut going = true;
    while going {
        let mut drained = false;
        for _ in 0..AT_ONCE {
            if !going {
                break;
            }
            match reader.next(&mut trace) {
                Read::Nothing => {
                    drained = true;
                    break;
                }
                Read::Unreadable => {}
                Read::Event(event) => going = sink.event(&event)? && !reader.is_enough(),
            }
        }
        going = going && ends.is_none_or(|end| Instant::now() < end);
        if renewed.elapsed() >= RENEW_EVERY {
            trace.renew()?;
            renewed = Instant::now();
        }
        if drained && going {
            going = sink.pause()?;
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = any(&mut signals) => going = false,
            }
        } else {
            // Signals are heard, also while packets come without end.
            tokio::select! {
                biased;
                () = any(&mut signals) => going = false,
                () = tokio::task::yield_now() => {}
            }
        }
    }
    trace.stop();
    let mut reads = true;
    while reads && !reader.is_enough() {
        match reader.next(&mut trace) {
            Read::Nothing => break,
            Read::Unreadable => {}
            Read::Event(event) => reads = sink.event(&event)?,
        }
    }
    Ok(Ended { events: reader.events, counts: trace.counts()? })
}

async fn any(signals: &mut [Signal]) {
    let waiting = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
    let _ = futures_util::future::select_all(waiting).await;
}

/// Reads records, and knows what is called how.
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
        if self.read.elapsed() >= NAMES_EVERY {
            // Maps that grew are others now.
            if let Ok(datapath) = Datapath::open(&self.datapath.instance) {
                self.datapath = datapath;
            }
            self.names = Names::read(&self.datapath);
            self.read = Instant::now();
        }
        let ahead = unix_ns().wrapping_sub(clock_ns());
        let mut event = None;
        if !trace.next(|bytes| event = Event::read(bytes, &self.names, ahead)) {
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

/// Says how it ended, where no data is printed.
pub(super) fn summary(what: &str, ended: &Ended) {
    let Ended { events, counts: TraceCounts { looked_at, lost } } = ended;
    let s = if *events == 1 { "" } else { "s" };
    say("note", &format!("{events} packet{s} {what}, {looked_at} looked at"));
    if *lost > 0 {
        say(
            "warning",
            &format!(
                "{lost} records lost: packets came faster than they were read; narrow the filter, or \
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
    fn shares_are_one_in_so_many() {
        assert_eq!((sample("1/1000"), sample("50"), sample("1/1")), (Ok(1000), Ok(50), Ok(1)));
        for text in ["0", "1/0", "2/3", "half", "", "1/9999999999"] {
            assert!(sample(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_reason_can_be_asked_for() {
        for word in Verdict::all().filter_map(Verdict::reason) {
            assert!(format!("verdict {word}").parse::<Filter>().is_ok(), "{word}");
        }
    }
}
