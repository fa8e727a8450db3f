//! `director explain`: shows where a flow goes, and why.

use std::process::ExitCode;

use director_common::wire::tcp::{ACK, FIN, RST, SYN};

use super::{InstanceName, explained, output::Output, print_message};
use crate::{
    inspect::trace::{Explanation, FlowSpec, Packet, explain},
    kernel::{
        datapath::{DatapathError, Explainer, attached},
        net::Netlink,
    },
    policy::config::model::Protocol,
};

/// Show where the running program sends a flow, and why, without side effects
///
/// A copy of the program processes a packet of the flow with the live maps: nothing is counted, no
/// flow is recorded. FLOW is `tcp 198.51.100.7:40000 -> 192.0.2.10:443`, or `udp
/// [2001:db8:1::7]:5353 -> [2001:db8::10]:53`; quotes and the arrow may be left out.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The flow: protocol, client and VIP
    #[arg(value_name = "FLOW", required = true, num_args = 1..)]
    flow: Vec<String>,
    /// The ingress interface of the packet [default: the first]
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// A packet that opens a TCP connection
    #[arg(long, group = "flag")]
    syn: bool,
    /// A packet of an open TCP connection (the default)
    #[arg(long, group = "flag")]
    ack: bool,
    /// A packet that closes one
    #[arg(long, group = "flag")]
    fin: bool,
    /// A packet that resets one
    #[arg(long, group = "flag")]
    rst: bool,
    /// Bytes of IP packet, to check whether it fits
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
/// If the program cannot be run.
pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let flow: FlowSpec = match args.flow.join(" ").parse() {
        Ok(flow) => flow,
        Err(error) => {
            print_message("error", &format!("{error}"));
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
                "{} is an address of this host: its packets do not arrive on an interface, so the \
                 XDP program never processes them, and this result does not apply",
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
            "for ingress by {}, the first of {} interfaces: --interface names another",
            name(index),
            pins.len()
        ));
    }
    if flow.protocol == Protocol::Udp && (args.syn || args.fin || args.rst) {
        explanation.notes.push("TCP flags do not apply to UDP".into());
    }
    args.output.print(&explanation, || table(&explanation, name))?;
    Ok(ExitCode::SUCCESS)
}

fn table(explanation: &Explanation, name: impl Fn(u32) -> String) -> String {
    let mut rows: Vec<(&str, String)> = vec![("flow", explanation.flow.clone())];
    let verdict = match explanation.reason {
        Some(reason) => format!("{} ({reason}): {}", explanation.verdict, explanation.meaning),
        None => format!("{}: {}", explanation.verdict, explanation.meaning),
    };
    rows.push(("verdict", verdict));
    if let (Some(service), Some(frontend)) = (&explanation.service, &explanation.frontend) {
        rows.push(("service", format!("{service} ({frontend})")));
    }
    if let Some(backend) = explanation.backend {
        rows.push(("backend", backend.to_string()));
    }
    let known = explanation.known.as_ref().map(|known| {
        let backend = known.backend.map_or("a removed backend".into(), |b| b.to_string());
        format!(
            "{}, to {backend}, idle for {:.1} of {:.0} s",
            known.state, known.idle_s, known.timeout_s
        )
    });
    let why = match (explanation.connection, &known, &explanation.ring) {
        ("known", Some(known), _) => format!("known: {known}"),
        ("new", _, Some(ring)) => {
            format!("new: slot {} of {} of the service's ring", ring.slot, ring.slots)
        }
        ("none", _, Some(ring)) if explanation.backend.is_some() => {
            format!("none: slot {} of {} of the service's ring", ring.slot, ring.slots)
        }
        (connection, _, _) => connection.to_owned(),
    };
    rows.push(("connection", why));
    if let Some(hop) = &explanation.next_hop {
        let vlan = hop.vlan.map_or(String::new(), |vlan| format!(", VLAN {vlan}"));
        let by = hop.ifindex.map_or(String::new(), |index| format!(" by {}", name(index)));
        let from = match hop.known_from {
            "configured" => "configured",
            "daemon" => "kept fresh by the daemon",
            _ => "no daemon keeps it fresh: from the kernel's FIB, or the last known",
        };
        rows.push(("next hop", format!("{}{by}{vlan} ({from})", hop.mac)));
    }
    if let Some(tunnel) = &explanation.tunnel {
        let Explanation { size, .. } = explanation;
        let mtu = size
            .as_ref()
            .map_or(String::new(), |size| format!("; packets of up to {} bytes fit", size.fits));
        rows.push(("tunnel", format!("{} -> {}{mtu}", tunnel.source, tunnel.destination)));
    } else if let Some(size) = &explanation.size {
        rows.push(("size", format!("packets of up to {} bytes fit", size.fits)));
    }
    rows.extend(explanation.notes.iter().map(|note| ("note", note.clone())));
    let lines: Vec<_> = rows.iter().map(|(key, value)| format!("{key:<11} {value}")).collect();
    lines.join("\n")
}
