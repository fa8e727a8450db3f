//! What the slow path logs, as lines of text: with the feature `verbose` only, and in no release.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::MapInfo,
    programs::{ProgramInfo, loaded_programs},
};
use aya_log::EbpfLogger;
use director_common::{abi::map, verdict::Verdict};
use log::{Log, Metadata, Record};

use super::{Instance, object};

/// The map that holds the records.
const MAP: &str = "AYA_LOGS";
/// How often the records are read.
const INTERVAL: Duration = Duration::from_millis(100);
/// How often further programs are looked for.
const SEARCH: Duration = Duration::from_secs(1);

/// Hands each line to a function.
struct Printer<F>(F);

impl<F: Fn(String) + Send + Sync> Log for Printer<F> {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let text = record.args().to_string();
        (self.0)(in_words(&text).unwrap_or(text));
    }

    fn flush(&self) {}
}

/// A record's numbers in words; `None` if it is none of the slow path's.
fn in_words(text: &str) -> Option<String> {
    let words: Vec<&str> = text.split(' ').collect();
    let [
        "verdict",
        verdict,
        "service",
        service,
        "backend",
        backend,
        "protocol",
        protocol,
        flow @ ..,
    ] = words.as_slice()
    else {
        return None;
    };
    let verdict = Verdict::from_code(verdict.parse().ok()?)?;
    let &[client, client_port, vip, vip_port] = flow else { return None };
    let end = |address: &str, port: &str| -> Option<String> {
        Some(match address.parse().ok()? {
            IpAddr::V4(address) => format!("{address}:{port}"),
            IpAddr::V6(address) => format!("[{address}]:{port}"),
        })
    };
    let reason = verdict.reason().map(|reason| format!(" {reason}")).unwrap_or_default();
    let mut line = format!(
        "slow path: protocol {protocol} {} -> {}: {}{reason}",
        end(client, client_port)?,
        end(vip, vip_port)?,
        verdict.label()
    );
    // Slots count from 1 here: 0 is none.
    for (what, slot) in [("service", service), ("backend", backend)] {
        if *slot != "0" {
            line += &format!(", {what} {slot}");
        }
    }
    Some(line)
}

type Kept = Arc<Mutex<Vec<String>>>;

/// The log of programs that this process has loaded.
pub(super) struct Lines {
    logger: EbpfLogger<Box<dyn Log>>,
    kept: Kept,
}

impl Lines {
    /// Reads the log of these programs; `None` if they have none.
    pub(super) fn of(ebpf: &mut Ebpf) -> Option<Self> {
        let kept = Kept::default();
        let lines = kept.clone();
        let keep = move |line| lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        let logger = EbpfLogger::init_with_logger(ebpf, Box::new(Printer(keep)) as Box<dyn Log>);
        Some(Self { logger: logger.ok()?, kept })
    }

    /// The lines since the last call.
    pub(super) fn take(&mut self) -> Vec<String> {
        self.logger.flush();
        std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Hands the lines of an instance's programs to `print`, on a thread, until the process ends.
pub fn follow(instance: &Instance, print: impl Fn(String) + Send + Sync + Clone + 'static) {
    let flows = instance.map_pin(map::FLOWS);
    let search = move |followed: &mut BTreeMap<u32, EbpfLogger<Box<dyn Log>>>| {
        // Not there before the first program is attached.
        let Ok(flows) = MapInfo::from_pin(&flows) else { return };
        let is_ours = |program: &ProgramInfo| {
            let maps = program.map_ids().ok().flatten().unwrap_or_default();
            program.name_as_str() == Some(object::SLOW_PATH) && maps.contains(&flows.id())
        };
        let mut found = BTreeMap::new();
        for program in loaded_programs().filter_map(Result::ok).filter(is_ours) {
            let Some(map) = log_of(&program) else { continue };
            let known = followed.remove(&map).or_else(|| {
                let printer = Box::new(Printer(print.clone())) as Box<dyn Log>;
                EbpfLogger::init_from_id_with_logger(program.id(), printer).ok()
            });
            found.extend(known.map(|logger| (map, logger)));
        }
        // Those left over have no program any more.
        *followed = found;
    };
    thread::spawn(move || {
        let mut followed = BTreeMap::new();
        let mut searched: Option<Instant> = None;
        loop {
            if searched.is_none_or(|at| at.elapsed() >= SEARCH) {
                search(&mut followed);
                searched = Some(Instant::now());
            }
            followed.values_mut().for_each(EbpfLogger::flush);
            thread::sleep(INTERVAL);
        }
    });
}

/// The map with a program's records.
fn log_of(program: &ProgramInfo) -> Option<u32> {
    let maps = program.map_ids().ok().flatten()?;
    let infos = maps.into_iter().filter_map(|id| MapInfo::from_id(id).ok());
    infos.into_iter().find(|info| info.name_as_str() == Some(MAP)).map(|info| info.id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_in_words() {
        let code = Verdict::all().find(|verdict| verdict.reason() == Some("fragment"));
        let code = code.expect("a reason").code();
        for (record, line) in [
            (
                format!(
                    "verdict {code} service 3 backend 0 protocol 17 198.51.100.7 0 192.0.2.1 0"
                ),
                "slow path: protocol 17 198.51.100.7:0 -> 192.0.2.1:0: drop fragment, service 3",
            ),
            (
                "verdict 0 service 0 backend 2 protocol 6 2001:db8::7 5 2001:db8::1 80".into(),
                "slow path: protocol 6 [2001:db8::7]:5 -> [2001:db8::1]:80: tx, backend 2",
            ),
        ] {
            assert_eq!(in_words(&record).as_deref(), Some(line), "{record}");
        }
        assert_eq!(in_words("verdict 0"), None);
        assert_eq!(in_words("something else"), None);
    }
}
