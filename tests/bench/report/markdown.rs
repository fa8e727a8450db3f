//! The document: what was measured, on what, how, and what not to conclude.

use std::{fmt::Write as _, path::Path};

use super::{FILES, RESULTS, table};
use crate::{
    measurement::{Measurement, Part},
    plot::Plot,
};

/// The command that made the document. Of absolute paths only the name is kept: the rest says
/// something about one machine only.
pub(super) fn command(args: impl Iterator<Item = String>) -> String {
    let mut command = "cargo xtask bench".to_owned();
    for arg in args {
        let path = Path::new(&arg);
        let name = path.file_name().filter(|_| path.is_absolute());
        let arg = name.map_or(arg.clone(), |name| name.to_string_lossy().into_owned());
        if arg.contains(|c: char| c.is_whitespace() || c == '\'' || c == '"') {
            let _ = write!(command, " {arg:?}");
        } else {
            let _ = write!(command, " {arg}");
        }
    }
    command
}

/// The document. Its plots are expected beside it.
pub(super) fn document(results: &[Measurement], plots: &[(Part, Plot)], command: &str) -> String {
    let mut text = format!(
        "<!-- Generated: do not edit. `{command}` made it; its words are in \
         tests/bench/report/markdown.rs. -->\n\n# Benchmarks\n\n{ABOUT}\n\nThis page was generated \
         by `{command}` from [{RESULTS}]({FILES}/{RESULTS}): all its figures, and more about each, \
         are there.\n\n"
    );
    text.push_str("## Measured on\n\n");
    text.push_str(&hosts(results));
    let tables = table::tables(results);
    for part in Part::ALL {
        if !results.iter().any(|result| result.part == part) {
            continue;
        }
        let (heading, about) = chapter(part);
        let _ = write!(text, "\n## {heading}\n\n{about}\n");
        for (_, plot) in plots.iter().filter(|(of, _)| *of == part) {
            let Plot { title, name, figures, .. } = plot;
            let _ = write!(text, "\n![{title}; {figures}]({FILES}/{name}.svg)\n");
        }
        for table in tables.iter().filter(|table| table.part == part) {
            let _ = write!(text, "\n### {}\n\n{}", table.title, table.markdown());
        }
    }
    let _ = write!(text, "\n{CAVEATS}\n");
    text
}

/// What the parts ran on, and how often they measured.
fn hosts(results: &[Measurement]) -> String {
    let mut text =
        "| part | kernel | CPU | mitigations | repeats |\n| --- | --- | --- | --- | ---: \
                    |\n"
        .to_owned();
    let host = |m: &Measurement| (m.part, m.kernel.clone(), m.cpu.clone(), m.mitigations.clone());
    let mut hosts: Vec<_> = Vec::new();
    for result in results {
        let host = host(result);
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts.sort_by_key(|(part, ..)| Part::ALL.iter().position(|known| known == part));
    for place in hosts {
        let here = results.iter().filter(|m| host(m) == place).map(|m| m.repeats);
        let (least, most) = (here.clone().min().unwrap_or(0), here.max().unwrap_or(0));
        let repeats = if least == most { least.to_string() } else { format!("{least} to {most}") };
        let (part, kernel, cpu, mitigations) = place;
        let part = format!("{part:?}").to_lowercase();
        let mitigations = mitigations.replace(" | ", "; ").replace('|', "\\|");
        let _ = writeln!(text, "| {part} | {kernel} | {cpu} | {mitigations} | {repeats} |");
    }
    text
}

fn chapter(part: Part) -> (&'static str, &'static str) {
    match part {
        Part::Packet => ("One packet", PACKET),
        Part::Scale => ("Growth", SCALE),
        Part::Control => ("Changes", CONTROL),
        Part::Vm => ("Whole forwarding, in virtual machines", VM),
    }
}

const ABOUT: &str = "\
What a packet costs Director, beside other programs that do the same, and what a change of its \
configuration costs. Each figure is the median of repeats; the least and the most of them stand \
beside it. Net is the median less that of the floor, a program that does nothing, in the same run.";

const PACKET: &str = "\
The kernel runs a program over one frame again and again (`BPF_PROG_TEST_RUN`, on one CPU unless \
`cpus` says more). Before each run a harness, itself an XDP program, gives back the room that the \
program took in front of the frame, restores the headers, makes them another flow's, and \
tail-calls the program. The floor is the same harness around a program that only returns \
`XDP_TX`.\n\n\
`conventional` is this repository's yardstick: a balancer as such programs are usually made, with a \
hash map of services, an LRU hash map of flows and a ring in an array. `of conv.` is a program's \
net cost in parts of that. Programs take turns, so that they share a machine's moods.\n\n\
- `known`: packets of so many flows, in turn, all of them seen before.\n\
- `new`: every packet opens a flow that was never seen (TCP with SYN).\n\
- `nobody`: packets for an address that is no service's.\n\n\
`traced` is Director while one packet in 1,000 is traced, and read. `--object NAME=PATH` measures \
another build of its programs beside this one, to see what a change costs: \
target/ebpf/bpfel-unknown-none/bpf/director, copied before the change.\n\n\
A program that somebody else pinned is measured beside these with `--pinned NAME=PATH`, which may \
be repeated. Its tables are to be filled for the frame that is sent:\n\n\
| | IPv4 | IPv6 |\n| --- | --- | --- |\n\
| destination MAC | 02:00:00:00:0d:01 | the same |\n\
| from | 11.0.0.0/8, any port | fd00:11::/64, any port |\n\
| to | 10.200.1.1, TCP port 80 | fd00:200::1, TCP port 80 |\n\
| for nobody | 10.200.1.0 | fd00:200:: |\n\
| bytes of frame | 64 | 80 |\n\n\
Known flows send ACK. `--vip`, `--vip6`, `--port` and `--protocol` make it another frame. Programs \
of this repository have one service of 100 backends; a pinned program that does not answer `XDP_TX` \
(to packets for nobody, `XDP_PASS`) is left out of that workload, and the run says so.";

const SCALE: &str = "\
The harness is that of one packet; 64 Ki known flows, IPv4 tunnel, 64 bytes. `services` have 3 \
backends each and all packets are for one of them; in `services-spread` packets are for as many of \
them as the largest power of two that there are. `backends` are those of one service. In `table`, \
`flows` is what the flow table is made for, of which 64 Ki are in use. The sizes of one kind take \
turns. `of first` is the net cost \
in parts of that of the smallest.\n\n\
Memory is what the kernel says of the maps (`memlock` in a descriptor's fdinfo), for a flow that the \
table is made for, for a service without its backends, and for a backend, per-CPU counters of all \
CPUs included.";

const CONTROL: &str = "\
Times from a change to its effect. Rings are built in one process; all else is a director in a \
network namespace, one cable away from a sender: the file is renamed into place, and the clock stops \
with the first packet that comes back the new way.";

const VM: &str = "\
Debian's kernels in QEMU, without KVM and with guest time that counts instructions, so that figures \
repeat. The kernel's pktgen sends UDP (64 bytes, over IPv6 78) over veth or between two virtio-net \
devices; all programs are measured in the same boot. Net is net of `floor-drop`, an XDP program that \
drops every packet; `floor` sends it back as it is. `of ipvs` is the net cost in parts of IPVS's in \
the same mode. Instructions are not time: caches do not count here.";

const CAVEATS: &str = "\
## What not to conclude\n\n\
- Machines differ and are noisy: compare ratios of one run, not nanoseconds of two. Where the least \
and the most are far apart, something else was running.\n\
- A packet's cost in the harness is not a router's throughput: there is no driver, no NIC, and the \
frame is in the CPU's cache.\n\
- The kernel tells the mean of many packets in whole nanoseconds. A difference of less than that is \
none, nor is one below what the floor differs from itself in the rig's own check.\n\
- Mitigations of the CPU's vulnerabilities change what calls and returns cost, of each program by \
another amount.\n\n\
## Run it\n\n\
```sh\n\
cargo xtask bench --report docs                  # everything; wants root, takes long\n\
cargo xtask bench packet --json packet.json      # one part: packet, scale, control or vm\n\
cargo xtask bench scale --json scale.json\n\
cargo xtask bench report --from packet.json scale.json --report docs\n\
cargo xtask bench packet --pinned mine=/sys/fs/bpf/mine   # a pinned program beside the others\n\
cargo xtask bench packet --object before=/tmp/director.o   # Director as it was before a change\n\
```\n\n\
`--quick` measures less and `--repeats N` more. What a machine lacks is said, and the rest runs.";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{fixture, plots};

    #[test]
    fn the_document_says_what_where_and_how() {
        let results = fixture::results();
        let text = document(&results, &plots::plots(&results), "cargo xtask bench --report docs");
        let first = text.lines().next().unwrap();
        assert!(first.contains("Generated") && first.contains("cargo xtask bench --report docs"));
        for what in [
            "| vm | 6.1.0-50-cloud-amd64 | QEMU, TCG | off | 3 |",
            "| packet | 6.18.1 | A CPU | retbleed: Mitigation: some; spectre_v2: Vulnerable | 9 |",
            "02:00:00:00:0d:01",
            "11.0.0.0/8",
            "fd00:11::/64",
            "--pinned NAME=PATH",
            "![Known flows, IPv4 tunnel, one CPU; ns per packet, net of the floor](benchmarks/packet-flows.svg)",
            "### Cost of a packet, ns/packet",
            "### Linux 6.1.0-50-cloud-amd64, virtio-net, instructions/packet",
        ] {
            assert!(text.contains(what), "{what} is not in {text}");
        }
        let packets: Vec<_> =
            results.into_iter().filter(|result| result.part == Part::Packet).collect();
        assert!(!document(&packets, &[], "").contains("virtual machines\n"));
    }

    #[test]
    fn commands_name_no_place_of_one_machine() {
        let args = ["--only", "v4 tunnel", "--from", "/somewhere/a.json", "--report", "docs"];
        assert_eq!(
            command(args.iter().map(ToString::to_string)),
            "cargo xtask bench --only \"v4 tunnel\" --from a.json --report docs"
        );
    }
}
