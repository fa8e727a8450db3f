//! What was not carried over.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::table::Place;

/// Places named for one note in the text; JSON has all of them.
const NAMED: usize = 6;

/// What a note means for the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// The service is only a comment in the output.
    LeftOut,
    /// The service is carried over, and something of it is done differently.
    Changed,
    /// The service is carried over, and something of it is not done.
    NotCarried,
}

impl Effect {
    fn label(self) -> &'static str {
        match self {
            Self::LeftOut => "left out",
            Self::Changed => "changed",
            Self::NotCarried => "not carried over",
        }
    }
}

/// Something that was not carried over as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// Where it is in the source.
    #[serde(flatten)]
    pub place: Place,
    /// What it is about: a service, or a block of the file.
    pub subject: String,
    /// What is concerned, in a form that programs can rely on: `nat`, `persistence`, ...
    pub what: &'static str,
    /// What it means.
    pub effect: Effect,
    /// Why.
    pub why: String,
    /// What to do instead.
    pub instead: String,
}

/// Everything that a person should know besides the configuration.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What was imported.
    pub source: String,
    /// Services of the source.
    pub services: usize,
    /// Those of them that are in the configuration.
    pub carried: usize,
    /// In the order of the source.
    pub notes: Vec<Note>,
    /// True of every import.
    pub warnings: Vec<&'static str>,
}

/// What the YAML does not show.
const WARNINGS: [&str; 3] = [
    "firewall rules do not see packets that Director takes: XDP runs before iptables, nftables \
     and conntrack, so INPUT and PREROUTING rules for these addresses (access, rate limits, \
     marks, NAT) no longer apply; move them in front of this host, or to the servers",
    "connections that are open while a service migrates are rescheduled: those that land on \
     another server are reset, so choose a quiet moment (docs/migrating.md)",
    "the virtual addresses still need an owner: keepalived's vrrp_instance, a routing daemon, the \
     host itself, or assign_vips",
];

impl Report {
    pub(super) fn new(source: &str) -> Self {
        Self {
            source: source.to_owned(),
            services: 0,
            carried: 0,
            notes: Vec::new(),
            warnings: WARNINGS.to_vec(),
        }
    }

    pub(super) fn sort(&mut self) {
        // By place; services of one place stay in their order.
        self.notes.sort_by(|a, b| a.place.cmp(&b.place));
    }
}

/// For people: equal notes together.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = self.services - self.carried;
        write!(f, "{}: {} of {} services carried over", self.source, self.carried, self.services)?;
        if left > 0 {
            write!(f, ", {left} left out")?;
        }
        writeln!(f)?;
        let mut groups: BTreeMap<(Effect, usize), Vec<&Note>> = BTreeMap::new();
        let mut first: BTreeMap<(Effect, &str, &str, &str), usize> = BTreeMap::new();
        for (number, note) in self.notes.iter().enumerate() {
            let key = (note.effect, note.what, note.why.as_str(), note.instead.as_str());
            let first = *first.entry(key).or_insert(number);
            groups.entry((note.effect, first)).or_default().push(note);
        }
        for ((effect, _), notes) in &groups {
            let note = notes[0];
            writeln!(f, "{}: {}: {}", effect.label(), note.what, note.why)?;
            for note in notes.iter().take(NAMED) {
                writeln!(f, "    {}: {}", note.place, note.subject)?;
            }
            if notes.len() > NAMED {
                writeln!(f, "    and {} more (--report json lists all)", notes.len() - NAMED)?;
            }
            writeln!(f, "  instead: {}", note.instead)?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        Ok(())
    }
}
