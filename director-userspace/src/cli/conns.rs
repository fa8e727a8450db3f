//! `director conns`: lists tracked flows.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BinaryHeap},
    net::IpAddr,
    process::ExitCode,
    time::Duration,
};

use director_common::flow_table::FlowState;
use serde::Serialize;

use super::{InstanceName, explained, output::Output, print_message};
use crate::{
    kernel::datapath::{Conn, Conns, Datapath},
    policy::{
        config::units::parse_duration,
        plan::{Observed, front},
    },
    serve::view::text,
};

/// List known flows: by client with `flows: {clients: true}`, else counted by backend and state
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only flows of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only flows to this backend
    #[arg(long, value_name = "ADDRESS")]
    backend: Option<IpAddr>,
    /// Only flows of clients with this address, or in this prefix
    #[arg(long, value_name = "PREFIX", value_parser = client_prefix)]
    client: Option<(IpAddr, u8)>,
    /// Only flows in this state
    #[arg(long, value_enum, value_name = "STATE")]
    state: Option<State>,
    /// Only flows last seen within this time: `30s`
    #[arg(long, value_name = "TIME", value_parser = duration)]
    idle_under: Option<Duration>,
    /// Only flows last seen at least this time ago
    #[arg(long, value_name = "TIME", value_parser = duration)]
    idle_over: Option<Duration>,
    /// Count flows by service, backend and state, and list none
    #[arg(long)]
    count: bool,
    /// The order
    #[arg(long, value_enum, default_value = "idle")]
    sort: Sort,
    /// List at most N flows
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
    #[command(flatten)]
    instance: InstanceName,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// A flow's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum State {
    /// One packet seen.
    New,
    /// More than one.
    Established,
    /// FIN or RST seen.
    Closing,
}

/// Orders of flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Sort {
    /// By the time since last seen, shortest first.
    Idle,
    /// By address and port of the client.
    Client,
    /// By service, then backend.
    Service,
    /// By backend.
    Backend,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|problem| format!("{text:?} {problem}: write 30s or 5m"))
}

fn client_prefix(text: &str) -> Result<(IpAddr, u8), String> {
    let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
    let address: IpAddr = address.parse().map_err(|_| format!("{text:?} is not an IP address"))?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => Some(bits),
        Some(length) => length.parse().ok().filter(|length| *length <= bits),
    };
    length.map(|length| (address, length)).ok_or_else(|| format!("a prefix has 0 to {bits} bits"))
}

fn is_within(address: IpAddr, (prefix, length): (IpAddr, u8)) -> bool {
    let bits = |a: u128, b: u128, width: u32| {
        (a ^ b).checked_shr(width - u32::from(length)).unwrap_or(0) == 0
    };
    match (address, prefix) {
        (IpAddr::V4(a), IpAddr::V4(b)) => bits(u32::from(a).into(), u32::from(b).into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => bits(a.into(), b.into(), 128),
        _ => false,
    }
}

/// A flow as it is printed.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Listed {
    client: Option<String>,
    vip: Option<String>,
    service: String,
    backend: IpAddr,
    state: &'static str,
    idle_s: f64,
    expires_s: f64,
}

/// Flows of one service, backend and state.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Counted {
    service: String,
    frontend: String,
    backend: IpAddr,
    new: u64,
    established: u64,
    closing: u64,
}

#[derive(Serialize)]
struct ConnsResult<'a> {
    /// Flows that match the filter.
    flows: u64,
    /// Whether clients are tracked.
    clients: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<&'a [Listed]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    counts: Option<&'a [Counted]>,
}

/// Runs the command. 0: done, 1: failed.
///
/// # Errors
/// If the flow table cannot be read.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let datapath = Datapath::open(&args.instance.instance).map_err(explained)?;
    let observed = crate::kernel::datapath::observe(&datapath.tables);
    if let Some(name) = &args.service
        && !observed.services.values().any(|service| service.name == *name)
    {
        anyhow::bail!("there is no service {name}: `director services` lists them");
    }
    let conns = Conns::open(&datapath).map_err(explained)?;
    if args.client.is_some() && !conns.have_clients() {
        anyhow::bail!(CLIENTS_UNTRACKED);
    }
    let found = find(args, &conns, &observed);
    let lists = conns.have_clients() && !args.count;
    let result = ConnsResult {
        flows: found.flows,
        clients: conns.have_clients(),
        connections: lists.then_some(found.listed.as_slice()),
        counts: (!lists).then_some(found.counted.as_slice()),
    };
    args.output.print(&result, || if lists { list(&found) } else { counts(&found) })?;
    if !conns.have_clients() && !args.count {
        print_message("note", CLIENTS_UNTRACKED);
    } else if lists && found.flows > found.listed.len() as u64 {
        let more = found.flows - found.listed.len() as u64;
        print_message("note", &format!("{more} more: --limit lists more, --count counts all"));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) const CLIENTS_UNTRACKED: &str = "clients are not tracked: `flows: {clients: true}` in the \
                                  configuration enables it, for new flows (24 bytes each)";

/// The matching flows of the flow table.
struct Found {
    flows: u64,
    listed: Vec<Listed>,
    counted: Vec<Counted>,
}

/// A flow with its sort order, for a heap of the first `limit` flows.
struct Ranked {
    sort: Sort,
    conn: Conn,
}

impl Ranked {
    fn key(&self) -> (u64, Option<(std::net::SocketAddr, u16)>, u32, u32) {
        let Conn { idle_ms, client, service, backend, .. } = self.conn;
        match self.sort {
            Sort::Idle => (idle_ms, client, service, backend),
            Sort::Client => (0, client, service, backend),
            Sort::Service => (u64::from(service) << 32 | u64::from(backend), client, 0, 0),
            Sort::Backend => (u64::from(backend), client, 0, 0),
        }
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// Reads the flow table once, and keeps at most `limit` flows.
fn find(args: &Args, conns: &Conns<'_>, observed: &Observed) -> Found {
    let limit = if conns.have_clients() && !args.count { args.limit as usize } else { 0 };
    let mut first = BinaryHeap::new();
    let mut counted: BTreeMap<(u32, u32), [u64; 3]> = BTreeMap::new();
    let mut flows = 0;
    for conn in conns.iter().filter(|conn| matches(args, conn, observed)) {
        flows += 1;
        counted.entry((conn.service, conn.backend)).or_default()[conn.state as usize] += 1;
        if limit > 0 {
            first.push(Ranked { sort: args.sort, conn });
            if first.len() > limit {
                first.pop();
            }
        }
    }
    let name =
        |slot: u32| observed.services.get(&slot).map_or_else(String::new, |s| s.name.clone());
    let listed = first.into_sorted_vec();
    let listed = listed.iter().filter_map(|Ranked { conn, .. }| {
        let backend = observed.backends.get(&conn.backend)?;
        let service = observed.services.get(&conn.service)?;
        let vip = service.key.address.to_ip(match service.key.family {
            6 => director_common::flow::Family::V6,
            _ => director_common::flow::Family::V4,
        });
        let seconds = |ms: u64| (ms / 100) as f64 / 10.0;
        Some(Listed {
            client: conn.client.map(|(client, _)| client.to_string()),
            vip: conn.client.map(|(_, port)| std::net::SocketAddr::new(vip, port).to_string()),
            service: service.name.clone(),
            backend: backend.address,
            state: crate::inspect::trace::state_label(conn.state),
            idle_s: seconds(conn.idle_ms),
            expires_s: seconds(conn.left_ms),
        })
    });
    let counts = counted.iter().filter_map(|((service, backend), states)| {
        Some(Counted {
            service: name(*service),
            frontend: front(observed.services.get(service)?.key),
            backend: observed.backends.get(backend)?.address,
            new: states[0],
            established: states[1],
            closing: states[2],
        })
    });
    let mut counted: Vec<_> = counts.collect();
    counted.sort_by(|a, b| {
        (&a.service, &a.frontend, a.backend).cmp(&(&b.service, &b.frontend, b.backend))
    });
    Found { flows, listed: listed.collect(), counted }
}

fn matches(args: &Args, conn: &Conn, observed: &Observed) -> bool {
    let state = match conn.state {
        FlowState::New => State::New,
        FlowState::Established => State::Established,
        FlowState::Closing => State::Closing,
    };
    let idle = Duration::from_millis(conn.idle_ms);
    let service = || observed.services.get(&conn.service).map(|service| service.name.as_str());
    let backend = || observed.backends.get(&conn.backend).map(|backend| backend.address);
    args.state.is_none_or(|wanted| wanted == state)
        && args.idle_under.is_none_or(|under| idle < under)
        && args.idle_over.is_none_or(|over| idle >= over)
        && args.service.as_deref().is_none_or(|wanted| service() == Some(wanted))
        && args.backend.is_none_or(|wanted| backend() == Some(wanted))
        && args.client.is_none_or(|prefix| {
            conn.client.is_some_and(|(client, _)| is_within(client.ip(), prefix))
        })
}

fn list(found: &Found) -> String {
    let rows: Vec<_> = found
        .listed
        .iter()
        .map(|conn| {
            vec![
                conn.client.clone().unwrap_or("-".into()),
                conn.vip.clone().unwrap_or("-".into()),
                conn.service.clone(),
                conn.backend.to_string(),
                conn.state.into(),
                format!("{:.1}", conn.idle_s),
                format!("{:.0}", conn.expires_s),
            ]
        })
        .collect();
    text::table(&["CLIENT", "VIP", "SERVICE", "BACKEND", "STATE", "IDLE_S", "EXPIRES_S"], &rows)
}

fn counts(found: &Found) -> String {
    let rows: Vec<_> = found
        .counted
        .iter()
        .map(|counted| {
            let Counted { service, frontend, backend, new, established, closing } = counted;
            let mut row = vec![service.clone(), frontend.clone(), backend.to_string()];
            row.extend(
                [new, established, closing, &(new + established + closing)].map(u64::to_string),
            );
            row
        })
        .collect();
    let headings = ["SERVICE", "ADDRESS", "BACKEND", "NEW", "ESTABLISHED", "CLOSING", "FLOWS"];
    text::table(&headings, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_contain_their_addresses() {
        let within = |address: &str, prefix: &str| {
            is_within(address.parse().expect(address), client_prefix(prefix).expect(prefix))
        };
        assert!(
            within("198.51.100.7", "198.51.100.0/24") && within("198.51.100.7", "198.51.100.7")
        );
        assert!(!within("198.51.101.7", "198.51.100.0/24") && within("198.51.101.7", "0.0.0.0/0"));
        assert!(within("2001:db8::7", "2001:db8::/32") && within("2001:db8::7", "::/0"));
        assert!(!within("2001:db8::7", "0.0.0.0/0") && !within("198.51.100.7", "::/0"));
        assert!(client_prefix("198.51.100.0/33").is_err() && client_prefix("web").is_err());
    }
}
