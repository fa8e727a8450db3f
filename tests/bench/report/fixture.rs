//! Some results of each part.

use crate::measurement::{Measurement, Part};

fn figure(part: Part, program: &str, mode: &str, workload: &str, net: Option<f64>) -> Measurement {
    let median = net.unwrap_or(0.0) + 60.0;
    Measurement {
        part,
        program: program.to_owned(),
        mode: mode.to_owned(),
        family: "v4".to_owned(),
        workload: workload.to_owned(),
        wire: String::new(),
        flows: 1,
        size: 64,
        cpus: 1,
        services: 1,
        backends: 100,
        unit: "ns/packet".to_owned(),
        median,
        min: median - 1.0,
        max: median + 2.0,
        net,
        repeats: 9,
        kernel: "6.18.1".to_owned(),
        cpu: "A CPU".to_owned(),
        mitigations: "retbleed: Mitigation: some | spectre_v2: Vulnerable".to_owned(),
    }
}

fn packet(program: &str, workload: &str, flows: u64, net: f64) -> Measurement {
    let figure = figure(Part::Packet, program, "tunnel", workload, Some(net));
    Measurement { flows, ..figure }
}

fn machine(program: &str, mode: &str, net: f64) -> Measurement {
    Measurement {
        wire: "virtio-net".to_owned(),
        flows: 64,
        backends: 3,
        unit: "instructions/packet".to_owned(),
        repeats: 3,
        kernel: "6.1.0-50-cloud-amd64".to_owned(),
        cpu: "QEMU, TCG".to_owned(),
        mitigations: "off".to_owned(),
        ..figure(Part::Vm, program, mode, "known", Some(net))
    }
}

/// Of the parts `packet`, `scale`, `control` and `vm`.
pub(crate) fn results() -> Vec<Measurement> {
    let grown = |program: &str, workload: &str, services, flows, net| Measurement {
        services,
        flows,
        backends: 3,
        ..figure(Part::Scale, program, "tunnel", workload, Some(net))
    };
    vec![
        packet("floor", "self-check", 1, 0.0),
        packet("floor", "known", 1, 0.0),
        packet("conventional", "known", 1, 100.0),
        packet("director", "known", 1, 50.0),
        packet("conventional", "known", 1 << 16, 200.0),
        packet("director", "known", 1 << 16, 50.0),
        packet("conventional", "new", 0, 1234.5),
        packet("director", "new", 0, 100.0),
        grown("floor", "services", 1, 1 << 16, 0.0),
        grown("director", "services", 1, 1 << 16, 80.0),
        grown("director", "services", 10_000, 1 << 16, 84.0),
        grown("director", "table", 1, 1 << 24, 120.0),
        Measurement {
            unit: "bytes".to_owned(),
            flows: 0,
            size: 0,
            ..figure(Part::Scale, "director", "memory", "backend", None)
        },
        Measurement {
            unit: "ms".to_owned(),
            family: String::new(),
            services: 1000,
            ..figure(
                Part::Control,
                "director",
                "cold-apply",
                "daemon, from one small service",
                None,
            )
        },
        machine("floor-drop", "drop", 0.0),
        machine("floor", "tx", 1382.1),
        machine("ipvs", "direct", 6000.0),
        machine("director", "direct", 2400.0),
        machine("director", "tunnel", 2600.0),
    ]
}
