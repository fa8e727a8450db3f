//! `director ipvs`: lists services in ipvsadm's format, for its users and scripts.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    net::SocketAddr,
    process::ExitCode,
    time::{Duration, Instant},
};

use director_common::{flow_table::FlowState, stats::BackendStats};

use super::{InstanceName, conns::CLIENTS_UNTRACKED, explained, print_message};
use crate::{
    kernel::datapath::{self, Conns, Counters, Datapath},
    migrate::export::{
        self,
        listing::{self, Columns, Counted, Listed, ListedConn, ListedServer},
    },
    policy::{
        config::model::Protocol,
        plan::{Observed, ObservedService},
    },
};

/// The interval of rates.
const SECOND: Duration = Duration::from_secs(1);

/// List services and servers as ipvsadm does: `director ipvs -Ln --stats`
///
/// Lists Director's services only; `ipvsadm -Ln` lists those of IPVS. Changes nothing: services are
/// added and removed in the configuration.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// List (always on)
    #[arg(short = 'L', short_alias = 'l', long = "list")]
    list: bool,
    /// Print numeric addresses (always on)
    #[arg(short = 'n', long)]
    numeric: bool,
    /// Only this TCP service
    #[arg(short = 't', long, value_name = "ADDRESS:PORT", conflicts_with = "udp_service")]
    tcp_service: Option<SocketAddr>,
    /// Only this UDP service
    #[arg(short = 'u', long, value_name = "ADDRESS:PORT")]
    udp_service: Option<SocketAddr>,
    /// List connections
    #[arg(short = 'c', long)]
    connection: bool,
    /// Show counters
    #[arg(long)]
    stats: bool,
    /// Show rates, measured over one second
    #[arg(long)]
    rate: bool,
    /// Show connection limits (always none)
    #[arg(long)]
    thresholds: bool,
    /// Show persistent connections (always none)
    #[arg(long)]
    persistent_conn: bool,
    /// Show the timeouts of connections
    #[arg(long)]
    timeout: bool,
    /// Print large numbers in full
    #[arg(long)]
    exact: bool,
    /// Sort by protocol, address and port (always on)
    #[arg(long)]
    sort: bool,
    /// Accepted without effect: the output is always sorted
    #[arg(long)]
    nosort: bool,
    #[command(flatten)]
    instance: InstanceName,
}

/// Runs the command. 0: done, 1: failed.
pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let datapath = Datapath::open(&args.instance.instance).map_err(explained)?;
    let text = if args.timeout {
        timeouts(&datapath)
    } else if args.connection {
        connections(&datapath, &args)?
    } else {
        services(&datapath, &args).await?
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn timeouts(datapath: &Datapath) -> String {
    let [tcp, closing, udp] = datapath.timeouts_s();
    format!("Timeout (tcp tcpfin udp): {tcp} {closing} {udp}\n")
}

/// Whether a service is selected by the options.
fn is_wanted(args: &Args, protocol: Protocol, address: SocketAddr) -> bool {
    match (args.tcp_service, args.udp_service) {
        (Some(wanted), _) => protocol == Protocol::Tcp && address == wanted,
        (_, Some(wanted)) => protocol == Protocol::Udp && address == wanted,
        _ => true,
    }
}

async fn services(datapath: &Datapath, args: &Args) -> anyhow::Result<String> {
    let columns = if args.stats {
        Columns::Stats
    } else if args.rate {
        Columns::Rate
    } else if args.thresholds {
        Columns::Thresholds
    } else if args.persistent_conn {
        Columns::Persistent
    } else {
        Columns::Plain
    };
    let mut observed = datapath::observe(&datapath.tables);
    let mut counters = datapath::counters(&datapath.tables, &observed)?;
    if columns == Columns::Rate {
        let began = Instant::now();
        tokio::time::sleep(SECOND).await;
        observed = datapath::observe(&datapath.tables);
        let later = datapath::counters(&datapath.tables, &observed)?;
        counters = per_second(&later, &counters, began.elapsed());
    }
    let mut listed = listed(datapath, &observed, &counters)?;
    listed.retain(|listed| is_wanted(args, listed.service.protocol, listed.service.address));
    Ok(listing::services(datapath.tables.flow_capacity(), &listed, columns, args.exact))
}

/// The rates between two readings, per second.
fn per_second(later: &Counters, before: &Counters, time: Duration) -> Counters {
    let rate = |now: u64, then: u64| (now.saturating_sub(then) as f64 / time.as_secs_f64()) as u64;
    let stats = |now: BackendStats, then: BackendStats| BackendStats {
        packets: rate(now.packets, then.packets),
        bytes: rate(now.bytes, then.bytes),
        flows: rate(now.flows, then.flows),
        ..now
    };
    let mut rates = later.clone();
    for (slot, service) in &mut rates.services {
        let then = before.services.get(slot);
        service.total = stats(service.total, then.map(|then| then.total).unwrap_or_default());
        for (slot, (_, counters)) in &mut service.backends {
            let then = then.and_then(|then| then.backends.get(slot));
            let then = then.map(|(_, then)| then.stats).unwrap_or_default();
            counters.stats = stats(counters.stats, then);
        }
    }
    rates
}

fn listed(
    datapath: &Datapath,
    observed: &Observed,
    counters: &Counters,
) -> anyhow::Result<Vec<Listed>> {
    let mut flows: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for flow in Conns::open(datapath)?.iter() {
        let frontend = observed.services.get(&flow.service).and_then(export::frontend);
        let (active, inactive) = flows.entry(flow.backend).or_default();
        let count = match (frontend.map(|(protocol, _)| protocol), flow.state) {
            (Some(Protocol::Tcp), FlowState::New | FlowState::Established) => active,
            (Some(Protocol::Tcp), FlowState::Closing) => inactive,
            // IPVS counts UDP connections as inactive.
            (Some(Protocol::Udp) | None, _) => inactive,
        };
        *count += 1;
    }
    let mut listed: Vec<Listed> = observed
        .services
        .iter()
        .filter_map(|(slot, service)| {
            let counted = counters.services.get(slot);
            let numbers = |stats: BackendStats| Counted {
                conns: stats.flows,
                packets: stats.packets,
                bytes: stats.bytes,
            };
            let service = export::of_slot(observed, *slot, service)?;
            let servers = service.1.iter().map(|slot| {
                let (active, inactive) = flows.get(slot).copied().unwrap_or_default();
                let stats = counted.and_then(|counted| counted.backends.get(slot));
                let stats = stats.map(|(_, counters)| counters.stats).unwrap_or_default();
                ListedServer { counted: numbers(stats), active, inactive }
            });
            Some(Listed {
                servers: servers.collect(),
                counted: numbers(counted.map(|counted| counted.total).unwrap_or_default()),
                service: service.0,
            })
        })
        .collect();
    listed.sort_by_key(|listed| (listed.service.protocol, listed.service.address));
    Ok(listed)
}

fn connections(datapath: &Datapath, args: &Args) -> anyhow::Result<String> {
    let observed = datapath::observe(&datapath.tables);
    let frontends: BTreeMap<u32, (Protocol, SocketAddr)> = observed
        .services
        .iter()
        .filter_map(|(slot, s): (_, &ObservedService)| Some((*slot, export::frontend(s)?)))
        .collect();
    let known = Conns::open(datapath)?;
    if !known.have_clients() {
        print_message("note", &format!("source is -: {CLIENTS_UNTRACKED}"));
    }
    let conns = known.iter().filter_map(|flow| {
        let (protocol, service) = *frontends.get(&flow.service)?;
        let backend = observed.backends.get(&flow.backend)?;
        let state = match (protocol, flow.state) {
            (Protocol::Udp, _) => "UDP",
            (Protocol::Tcp, FlowState::New) => "SYN_RECV",
            (Protocol::Tcp, FlowState::Established) => "ESTABLISHED",
            (Protocol::Tcp, FlowState::Closing) => "FIN_WAIT",
        };
        // A service for all ports has no port of its own: the flow's is used.
        let port = flow.client.map_or(service.port(), |(_, port)| port);
        is_wanted(args, protocol, service).then(|| ListedConn {
            protocol,
            expires_s: flow.left_ms / 1000,
            state,
            client: flow.client.map(|(client, _)| client),
            service: SocketAddr::new(service.ip(), port),
            server: SocketAddr::new(backend.address, port),
        })
    });
    Ok(listing::connections(&conns.collect::<Vec<_>>()))
}
