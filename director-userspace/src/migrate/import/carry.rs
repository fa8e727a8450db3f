//! Decides which LVS services can be converted so that clients and servers notice no change, and what
//! replaces the options that cannot.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use super::{
    Options, checks,
    report::{Effect, Note, Report},
    servers,
    table::{Identity, LvsService, LvsTable, Method, Persistence, Place, Protocol, Timeouts},
    write,
};
use crate::policy::{
    config::{
        self,
        model::{HealthCheck, MAX_BACKENDS_IN_ALL, MAX_SERVICES},
    },
    scheduler::{Scheduler, lvs},
};

/// What is written to the output.
#[derive(Debug)]
pub(super) struct Carried {
    pub(super) services: Vec<Entry>,
    pub(super) timeouts: Timeouts,
}

/// A service of the output.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) place: Place,
    pub(super) identity: Identity,
    pub(super) name: String,
    pub(super) forward: &'static str,
    pub(super) scheduler: Scheduler,
    pub(super) backends: Vec<(IpAddr, u32)>,
    pub(super) checks: Vec<HealthCheck>,
    pub(super) quorum: u32,
    pub(super) hysteresis: u32,
    /// Whether backends that are down keep their flows.
    pub(super) keeps: bool,
    pub(super) sorry: Option<IpAddr>,
    /// Written only in the comment of a service that is left out.
    pub(super) persistence: Option<Persistence>,
    /// Why the service is left out, and written as a comment; empty if it is not.
    pub(super) left_out: Vec<String>,
}

/// Notes of one service.
pub(super) struct Notes<'a> {
    service: &'a LvsService,
    subject: String,
    left_out: Vec<Note>,
    others: Vec<Note>,
}

impl Notes<'_> {
    fn note(
        &self,
        place: &Place,
        what: &'static str,
        effect: Effect,
        why: &str,
        do_it: &str,
    ) -> Note {
        Note {
            place: place.clone(),
            subject: self.subject.clone(),
            what,
            effect,
            why: why.to_owned(),
            instead: do_it.to_owned(),
        }
    }

    fn leave_out(&mut self, what: &'static str, why: &str, instead: &str) {
        let note = self.note(&self.service.place, what, Effect::LeftOut, why, instead);
        self.left_out.push(note);
    }

    pub(super) fn change(&mut self, what: &'static str, why: &str, instead: &str) {
        let place = &self.service.place;
        self.others.push(self.note(place, what, Effect::Changed, why, instead));
    }

    pub(super) fn drop_at(&mut self, place: &Place, what: &'static str, why: &str, instead: &str) {
        self.others.push(self.note(place, what, Effect::NotCarried, why, instead));
    }
}

/// Converts every service.
pub(super) fn carry(table: LvsTable, options: &Options, report: &mut Report) -> Carried {
    report.services = table.services.len();
    let mut names = HashMap::new();
    let mut identities = HashSet::new();
    let candidates = table.services.iter().filter(|service| could_be_carried(service));
    let vips: HashSet<IpAddr> = candidates.filter_map(|s| vip(s.identity)).collect();
    let mut n_backends = 0;
    let mut services = Vec::with_capacity(table.services.len());
    for service in &table.services {
        let mut notes = Notes {
            service,
            subject: service.identity.to_string(),
            left_out: Vec::new(),
            others: Vec::new(),
        };
        let mut entry = entry(service, options, &mut notes);
        entry.name = name(service, &mut names);
        if !identities.insert(service.identity) {
            let why = "another service has the same address, protocol and port";
            notes.leave_out("duplicate", why, "keep one of them");
        }
        let is_loop = |address: &IpAddr| vips.contains(address);
        if entry.backends.iter().map(|(address, _)| address).chain(&entry.sorry).any(is_loop) {
            let why = "one of its servers is itself a virtual address here: packets would loop";
            notes.leave_out("backend-is-vip", why, "name the servers' own addresses");
        }
        if report.carried >= MAX_SERVICES || n_backends + entry.backends.len() > MAX_BACKENDS_IN_ALL
        {
            let why = "Director takes no more services or backends";
            notes.leave_out("too-many", why, "spread services over several directors");
        }
        if notes.left_out.is_empty()
            && let Err(why) = fit(&mut entry, &mut notes)
        {
            notes.leave_out("invalid", &why, "correct the source");
        }
        if notes.left_out.is_empty() {
            report.carried += 1;
            n_backends += entry.backends.len();
            report.notes.append(&mut notes.others);
        } else {
            entry.left_out =
                notes.left_out.iter().map(|note| format!("{}: {}", note.what, note.why)).collect();
            report.notes.append(&mut notes.left_out);
        }
        services.push(entry);
    }
    Carried { services, timeouts: table.timeouts }
}

/// Validates an entry as a configuration. Checks and a sorry server that Director refuses are removed,
/// with a note for each.
fn fit(entry: &mut Entry, notes: &mut Notes<'_>) -> Result<(), String> {
    if refusal(entry).is_none() {
        return Ok(());
    }
    let (checks, sorry) = (std::mem::take(&mut entry.checks), entry.sorry.take());
    if let Some(why) = refusal(entry) {
        (entry.checks, entry.sorry) = (checks, sorry);
        return Err(why);
    }
    for check in checks {
        entry.checks.push(check);
        if let Some(why) = refusal(entry) {
            entry.checks.pop();
            let place = &notes.service.place;
            let why = format!("a check is not one that Director takes: {why}");
            notes.others.push(notes.note(
                place,
                "check",
                Effect::NotCarried,
                &why,
                "write one that it takes; until then backends count as up for it",
            ));
        }
    }
    entry.sorry = sorry;
    if let (Some(why), Some(said)) = (refusal(entry), &notes.service.health.sorry) {
        entry.sorry = None;
        let why = format!("the sorry server cannot be one: {why}");
        let instead = "when_empty: pass gives packets to this host, where a server that listens on \
                       the VIP can answer";
        notes.drop_at(&said.place, "sorry", &why, instead);
    }
    Ok(())
}

/// The first error of an entry as a configuration.
fn refusal(entry: &Entry) -> Option<String> {
    let errors = config::parse("import", &write::alone(entry)).err()?;
    Some(errors.errors.first().map_or_else(String::new, |error| error.message.clone()))
}

fn vip(identity: Identity) -> Option<IpAddr> {
    match identity {
        Identity::Address { address, .. } => Some(address),
        Identity::Mark { .. } => None,
    }
}

/// Whether protocol, servers and forwarding method alone allow a conversion.
fn could_be_carried(service: &LvsService) -> bool {
    let methods = || service.servers.iter().map(|server| server.method);
    matches!(service.identity, Identity::Address { protocol: Protocol::Tcp | Protocol::Udp, .. })
        && !service.servers.is_empty()
        && (methods().all(|m| m == Method::Direct) || methods().all(|m| m == Method::Ipip))
}

fn entry(service: &LvsService, options: &Options, notes: &mut Notes<'_>) -> Entry {
    match service.identity {
        Identity::Mark { .. } => notes.leave_out(
            "fwmark",
            "firewall marks are set after XDP, which cannot see them",
            "write a service for each address, protocol and port that the firewall marks",
        ),
        Identity::Address { protocol: Protocol::Sctp, .. } => {
            notes.leave_out("sctp", "Director does not balance SCTP yet", "leave it with IPVS");
        }
        Identity::Address { .. } => {}
    }
    let forward = forward(service, notes);
    affinity(service, options, notes);
    let scheduler = scheduler(service, options, notes);
    if service.ops {
        notes.change(
            "ops",
            "packets of one flow go to one backend: one-packet scheduling is not there",
            "nothing, if clients use many ports; a client with one port stays on one backend",
        );
    }
    let backends = servers::backends(service, notes);
    servers::ports(service, notes);
    for server in &service.servers {
        if server.upper > 0 || server.lower > 0 {
            let why = "connections per server are not limited";
            let instead = "limit them on the server";
            notes.drop_at(&server.place, "thresholds", why, instead);
        }
    }
    let (checks, differing) = checks::common(service);
    for (what, why, instead) in differing {
        notes.change(what, &why, &instead);
    }
    let n_inhibiting = service.servers.iter().filter(|server| server.inhibit).count();
    let keeps = n_inhibiting > 0 && n_inhibiting == service.servers.len();
    if n_inhibiting > 0 && !keeps {
        let why = "only some servers have inhibit_on_failure: known flows leave every server that \
                   is down";
        notes.change("inhibit", why, "write on_down: keep, if they are to stay on all of them");
    }
    let quorum = service.health.quorum.max(1);
    let hysteresis = service.health.hysteresis.min(quorum - 1);
    if hysteresis != service.health.hysteresis {
        let why = "hysteresis must be less than quorum: it is set to the most there can be";
        notes.change("hysteresis", why, "correct one of them");
    }
    Entry {
        place: service.place.clone(),
        identity: service.identity,
        name: String::new(),
        forward,
        checks,
        quorum,
        hysteresis,
        keeps,
        sorry: servers::sorry(service, &backends, notes),
        scheduler,
        backends,
        persistence: service.persistence.clone().filter(|_| !options.lossy),
        left_out: Vec::new(),
    }
}

/// The service's `forward:` value: the one forwarding method of its servers.
fn forward(service: &LvsService, notes: &mut Notes<'_>) -> &'static str {
    let mut methods: Vec<Method> = service.servers.iter().map(|server| server.method).collect();
    methods.sort();
    methods.dedup();
    match methods[..] {
        [] => {
            let why = "it has no servers, so how packets should travel is not known";
            notes.leave_out("no-servers", why, "add backends, and the way to them");
            "direct"
        }
        [Method::Direct | Method::Ipip] => methods[0].forward(),
        [Method::Nat] => {
            let why = "NAT is not there yet: Director does not rewrite addresses or ports";
            let instead = "leave it with IPVS, or move its servers to direct routing or tunnels \
                           (docs/migrating.md)";
            notes.leave_out("nat", why, instead);
            "nat"
        }
        [Method::Local] => {
            let why = "the server is this host: the kernel does that by itself";
            notes.leave_out("local", why, "nothing: packets for it pass to the host");
            "local"
        }
        [other] => {
            let why = format!("a {} is not there yet: tunnels are IPIP", other.label());
            let instead = "leave it with IPVS, or give the servers an IPIP tunnel";
            notes.leave_out("tunnel-type", &why, instead);
            "tunnel"
        }
        [first, ..] => {
            let all: Vec<&str> = methods.iter().map(|method| method.label()).collect();
            let why = format!("its servers are reached in {} ways: {}", all.len(), all.join(", "));
            let instead = "a service of Director's has one: give all servers the same, or write \
                           those of one way only";
            notes.leave_out("mixed-forwarding", &why, instead);
            first.forward()
        }
    }
}

/// Persistence: clients notice if it is lost.
fn affinity(service: &LvsService, options: &Options, notes: &mut Notes<'_>) {
    let Some(persistence) = &service.persistence else { return };
    let seconds = persistence.timeout.as_secs();
    let engine = match &service.engine {
        Some(engine) => format!(", by {engine}"),
        None => String::new(),
    };
    let why = format!(
        "persistence ({seconds} s{engine}) keeps a client on one server; Director places every \
         connection for itself"
    );
    if options.lossy {
        notes.change("persistence", &why, "keep sessions in a place that all servers share");
    } else {
        let instead = "leave it with IPVS; --lossy carries it over without persistence, which is \
                       right where all servers know all sessions";
        notes.leave_out("persistence", &why, instead);
    }
}

/// The scheduler that replaces LVS's.
fn scheduler(service: &LvsService, options: &Options, notes: &mut Notes<'_>) -> Scheduler {
    let name = service.scheduler.as_str();
    if let Some(same) = Scheduler::of_lvs(name, &service.scheduler_flags) {
        return same;
    }
    let default = Scheduler::DEFAULT;
    let spread = "nothing, unless clients or servers depend on the order; shares by weight stay";
    let Some(known) = lvs::find(name) else {
        let why =
            format!("the scheduler {name:?} is not one of the kernel's: {default} replaces it");
        notes.change("scheduler", &why, spread);
        return default;
    };
    let ends = known.affinity_ends_with;
    let is_lifted = !ends.is_empty() && service.scheduler_flags.iter().any(|flag| flag == ends);
    match known.affinity.filter(|_| !is_lifted) {
        None => {
            let why = format!("the scheduler {name} becomes {default}: new flows spread otherwise");
            notes.change("scheduler", &why, spread);
        }
        Some(what) => {
            let why = format!(
                "the scheduler {name} {what}; {default} spreads every connection over all of them"
            );
            if options.lossy {
                notes.change("scheduler", &why, spread);
            } else {
                let instead = format!("leave it with IPVS; --lossy carries it over with {default}");
                notes.leave_out("scheduler", &why, &instead);
            }
        }
    }
    default
}

/// A name that no other service has.
fn name(service: &LvsService, taken: &mut HashMap<String, u32>) -> String {
    let plain = |text: &str| {
        let keep = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        text.chars().map(keep).collect::<String>()
    };
    let by_identity = match service.identity {
        Identity::Mark { mark, is_v6 } => {
            format!("fwmark-{mark}{}", if is_v6 { "-v6" } else { "" })
        }
        Identity::Address { protocol, address, port } => {
            let port = if port == 0 { "any".to_owned() } else { port.to_string() };
            format!("{}-{}-{port}", protocol.word(), plain(&address.to_string()))
        }
    };
    let mut name = match &service.name {
        Some(own) => format!("{}-{by_identity}", plain(own)),
        None => by_identity.clone(),
    };
    if name.len() > 55 {
        name = by_identity;
    }
    let n = taken.entry(name.clone()).or_insert(0);
    *n += 1;
    if *n == 1 { name } else { format!("{name}-{n}") }
}
