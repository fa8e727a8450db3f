//! Every metric there is. `docs/metrics.md` lists the same, and a test compares.

/// What a metric's value does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

impl Kind {
    /// As the format has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// A metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name, the unit at its end.
    pub name: &'static str,
    /// What its value does.
    pub kind: Kind,
    /// Its labels' names.
    pub labels: &'static [&'static str],
    /// What it means, in one line.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident: $kind:ident $name:literal $labels:expr, $help:literal;)+) => {
        $(
            pub(super) const $constant: Metric =
                Metric { name: $name, kind: Kind::$kind, labels: &$labels, help: $help };
        )+

        /// Every metric, in the order in which they are written.
        pub const ALL: &[Metric] = &[$($constant),+];
    };
}

const NONE: [&str; 0] = [];
const SERVICE: [&str; 2] = ["service", "frontend"];
const BACKEND: [&str; 3] = ["service", "frontend", "backend"];

metrics! {
    BUILD_INFO: Gauge "director_build_info" ["version"],
        "1; the version of the daemon that answers.";
    START_TIME: Gauge "director_start_time_seconds" NONE,
        "When the daemon started, seconds since 1970.";
    HEARTBEAT_AGE: Gauge "director_heartbeat_age_seconds" NONE,
        "How long ago the daemon said to the program that it lives; from 1.5 s on the program asks the kernel for next hops.";
    CONFIG_REVISION: Gauge "director_config_revision" NONE,
        "Number of the configuration that is in effect.";
    CONFIG_APPLIED: Gauge "director_config_applied_timestamp_seconds" NONE,
        "When that configuration was applied, seconds since 1970.";
    CONFIG_REFUSED: Gauge "director_config_refused" NONE,
        "1 if the file as it is now was refused, so that an older one is in effect.";
    CONFIG_WARNINGS: Gauge "director_config_warnings" NONE,
        "What is odd about the configuration on this host: number of warnings.";
    INTERFACE_ATTACHED: Gauge "director_interface_attached" ["interface", "mode"],
        "1 for each interface that carries the program.";
    PACKETS: Counter "director_packets_total" ["verdict", "reason"],
        "Packets by what became of them (tx, redirect, reply, pass, drop) and why.";
    FLOW_CAPACITY: Gauge "director_flow_table_capacity_flows" NONE,
        "Flows that the flow table is made for.";
    FLOWS_ESTABLISHED: Gauge "director_flow_table_established_flows" NONE,
        "Established flows that the flow table knows; estimated in a large and busy one.";
    SERVICE_UP: Gauge "director_service_up" SERVICE,
        "1 if enough of the service's backends are up (quorum).";
    SERVICE_PANIC: Gauge "director_service_panic" SERVICE,
        "1 if so many backends are down at once that all are kept.";
    SERVICE_BACKENDS: Gauge "director_service_backends" SERVICE,
        "Backends that are configured.";
    SERVICE_BACKENDS_UP: Gauge "director_service_backends_up" SERVICE,
        "Backends that are up.";
    SERVICE_FLOWS: Counter "director_service_flows_total" SERVICE,
        "Flows scheduled.";
    SERVICE_PACKETS: Counter "director_service_packets_total" SERVICE,
        "Packets forwarded.";
    SERVICE_BYTES: Counter "director_service_bytes_total" SERVICE,
        "Bytes of IP packet forwarded, as clients sent them.";
    SERVICE_DROPPED: Counter "director_service_dropped_packets_total" SERVICE,
        "Packets that no backend got: dropped, or answered with an ICMP error.";
    SERVICE_UNRECORDED: Counter "director_service_unrecorded_flows_total" SERVICE,
        "Flows that the flow table had no room for; the ring alone places their packets.";
    SERVICE_ESTABLISHED: Gauge "director_service_established_flows" SERVICE,
        "Established flows.";
    BACKEND_UP: Gauge "director_backend_up" BACKEND,
        "1 if the backend's checks say that it works, or nobody checks it.";
    BACKEND_WEIGHT: Gauge "director_backend_weight" BACKEND,
        "Weight in effect: health, agent, slow start and overrides considered.";
    BACKEND_CONFIGURED_WEIGHT: Gauge "director_backend_configured_weight" BACKEND,
        "Weight that the configuration gives.";
    BACKEND_DRAINING: Gauge "director_backend_draining" BACKEND,
        "1 if the backend gets no new flows, by hand or because it was removed.";
    BACKEND_FLOWS: Counter "director_backend_flows_total" BACKEND,
        "Flows scheduled to this backend.";
    BACKEND_PACKETS: Counter "director_backend_packets_total" BACKEND,
        "Packets forwarded to this backend.";
    BACKEND_BYTES: Counter "director_backend_bytes_total" BACKEND,
        "Bytes of IP packet forwarded to this backend, as clients sent them.";
    BACKEND_ESTABLISHED: Gauge "director_backend_established_flows" BACKEND,
        "Established flows of this backend.";
    TRUNCATED: Gauge "director_metrics_truncated" NONE,
        "1 if there are too many backends to have series of their own.";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_keep_to_the_conventions() {
        let names: HashSet<&str> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            let name = metric.name;
            assert!(name.starts_with("director_"), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            let counts = metric.kind == Kind::Counter;
            assert_eq!(name.ends_with("_total"), counts, "{name}");
            assert!(metric.help.ends_with('.') && !metric.help.contains('\n'), "{name}");
        }
    }
}
