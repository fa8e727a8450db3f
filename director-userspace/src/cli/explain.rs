//! `director explain`: where does a flow go, and why?

use std::process::ExitCode;

use director_common::wire::tcp::{ACK, FIN, RST, SYN};

use super::{InstanceName, explained, output::Output, say};
use crate::{
    inspect::trace::{Explanation, FlowSpec, Packet, explain},
    kernel::{
        datapath::{DatapathError, Explainer, attached},
        net::Netlink,
    },
    policy::config::model::Protocol,
};

/// Ask the running program where a flow goes and why, disturbing nothing
///
/// A copy of the program, over the maps that packets use now, decides a packet of the flow as if it
/// came: nothing is counted, no flow is recorded. FLOW is `tcp 198.51.100.7:40000 ->
/// 192.0.2.10:443`, or `udp [2001:db8:1::7]:5353 -> [2001:db8::10]:53`; quotes and the arrow may be
/// left out.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The flow: protocol, client and VIP
    #[arg(value_name = "FLOW", required = true, num_args = 1..)]
    flow: Vec<String>,
    /// The interface that the packet would come by [default: the first]
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// A packet that opens a TCP connection
    #[arg(long, group = "flag")]
    syn: bool,
    /// A packet of an open TCP connection (what is taken if nothing is said)
    #[arg(long, group = "flag")]
    ack: bool,
    /// A packet that closes one
    #[arg(long, group = "flag")]
    fin: bool,
    /// A packet that resets one
    #[arg(long, group = "flag")]
    rst: bool,
    /// Bytes of IP packet, to see whether it fits
    #[arg(long, value_name = "BYTES", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=3000))]
    size: u16,
    #[command(flatten)]
    instance: InstanceName,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Runs the command. 0: done, whatever the verdict; 1: failed; 2: wrong usage.
///
/// # Errors
/// What kept the program from being asked.
pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let flow: FlowSpec = match args.flow.join(" ").parse() {
        Ok(flow) => flow,
        Err(error) => {
            say("error", &format!("{error}"));
            return Ok(ExitCode::from(2));
        }
    };
    let flags = match () {
        () if args.syn => SYN,
        () if args.fin => FIN | ACK,
        () if args.rst => RST,
        () => ACK,
    };
    let packet = Packet { flags, length: args.size };
    let instance = &args.instance.instance;
    let pins = attached(instance).map_err(explained)?;
    let wanted = match &args.interface {
        None => None,
        Some(name) => {
            let pin = pins.iter().find(|pin| pin.interface == *name);
            let pin = pin.ok_or_else(|| explained(DatapathError::NotOn(name.clone())))?;
            Some((pin.ifindex, name.as_str()))
        }
    };
    let mut explainer = Explainer::new(instance, wanted).map_err(explained)?;
    let mut explanation = explain(&mut explainer, &flow, packet)?;
    let own = Netlink::connect()?.addresses().await?;
    if own.iter().any(|address| address.address == flow.source.ip()) {
        explanation.notes.insert(
            0,
            format!(
                "{} is an address of this host: what it sends never arrives at an interface, so the \
                 XDP program never sees it, and this is not what becomes of it",
                flow.source.ip()
            ),
        );
    }
    let slot = explainer.interface_slot();
    let index = explainer.interface(slot).ifindex;
    let name = |index: u32| {
        let pin = pins.iter().find(|pin| pin.ifindex == index);
        pin.map_or_else(|| format!("interface {index}"), |pin| pin.interface.clone())
    };
    if args.interface.is_none() && pins.len() > 1 {
        explanation.notes.push(format!(
            "asked for {}, the first of {}: --interface names another",
            name(index),
            pins.len()
        ));
    }
    if flow.protocol == Protocol::Udp && (args.syn || args.fin || args.rst) {
        explanation.notes.push("TCP flags mean nothing for UDP".into());
    }
    args.output.print(&explanation, || table(&explanation, name))?;
    Ok(ExitCode::SUCCESS)
}

fn table(said: &Explanation, name: impl Fn(u32) -> String) -> String {
    let mut rows: Vec<(&str, String)> = vec![("flow", said.flow.clone())];
    let verdict = match said.reason {
        Some(reason) => format!("{} ({reason}): {}", said.verdict, said.meaning),
        None => format!("{}: {}", said.verdict, said.meaning),
    };
    rows.push(("verdict", verdict));
    if let (Some(service), Some(frontend)) = (&said.service, &said.frontend) {
        rows.push(("service", format!("{service} ({frontend})")));
    }
    if let Some(backend) = said.backend {
        rows.push(("backend", backend.to_string()));
    }
    let known = said.known.as_ref().map(|known| {
        let backend = known.backend.map_or("one that is gone".into(), |b| b.to_string());
        format!(
            "{}, to {backend}, idle for {:.1} of {:.0} s",
            known.state, known.idle_s, known.timeout_s
        )
    });
    let why = match (said.connection, &known, &said.ring) {
        ("known", Some(known), _) => format!("known: {known}"),
        ("new", _, Some(ring)) => {
            format!("new: slot {} of {} of the service's ring", ring.slot, ring.slots)
        }
        ("none", _, Some(ring)) if said.backend.is_some() => {
            format!("none: slot {} of {} of the service's ring", ring.slot, ring.slots)
        }
        (connection, _, _) => connection.to_owned(),
    };
    rows.push(("connection", why));
    if let Some(hop) = &said.next_hop {
        let vlan = hop.vlan.map_or(String::new(), |vlan| format!(", VLAN {vlan}"));
        let by = hop.ifindex.map_or(String::new(), |index| format!(" by {}", name(index)));
        let from = match hop.known_from {
            "configured" => "configured",
            "daemon" => "kept fresh by the daemon",
            _ => "no daemon keeps it fresh: as the kernel's FIB says, or as last known",
        };
        rows.push(("next hop", format!("{}{by}{vlan} ({from})", hop.mac)));
    }
    if let Some(tunnel) = &said.tunnel {
        let Explanation { size, .. } = said;
        let mtu = size
            .as_ref()
            .map_or(String::new(), |size| format!("; packets of up to {} bytes fit", size.fits));
        rows.push(("tunnel", format!("{} -> {}{mtu}", tunnel.source, tunnel.destination)));
    } else if let Some(size) = &said.size {
        rows.push(("size", format!("packets of up to {} bytes fit", size.fits)));
    }
    rows.extend(said.notes.iter().map(|note| ("note", note.clone())));
    let lines: Vec<_> = rows.iter().map(|(key, value)| format!("{key:<11} {value}")).collect();
    lines.join("\n")
}
