//! All metrics. `docs/metrics.md` lists the same, and a test compares the two.

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

impl Kind {
    /// The name in Prometheus's text format.
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
    /// The name; its suffix is the unit.
    pub name: &'static str,
    /// The type.
    pub kind: Kind,
    /// The names of the labels.
    pub labels: &'static [&'static str],
    /// The help text, in one line.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident: $kind:ident $name:literal $labels:expr, $help:literal;)+) => {
        $(
            pub(super) const $constant: Metric =
                Metric { name: $name, kind: Kind::$kind, labels: &$labels, help: $help };
        )+

        /// All metrics, in the order of the output.
        pub const ALL: &[Metric] = &[$($constant),+];
    };
}

const NONE: [&str; 0] = [];
const SERVICE: [&str; 2] = ["service", "frontend"];
const BACKEND: [&str; 3] = ["service", "frontend", "backend"];

metrics! {
    BUILD_INFO: Gauge "director_build_info" ["version"],
        "Always 1; the label has the daemon's version.";
    START_TIME: Gauge "director_start_time_seconds" NONE,
        "When the daemon started, seconds since 1970.";
    HEARTBEAT_AGE: Gauge "director_heartbeat_age_seconds" NONE,
        "Age of the daemon's heartbeat; from 1.5 s on, the program looks up next hops in the kernel's FIB.";
    CONFIG_REVISION: Gauge "director_config_revision" NONE,
        "Revision of the configuration in effect.";
    CONFIG_APPLIED: Gauge "director_config_applied_timestamp_seconds" NONE,
        "When that configuration was applied, seconds since 1970.";
    CONFIG_REFUSED: Gauge "director_config_refused" NONE,
        "1 if the current file was refused, so that an older configuration is in effect.";
    CONFIG_WARNINGS: Gauge "director_config_warnings" NONE,
        "Number of warnings about the configuration on this host.";
    INTERFACE_ATTACHED: Gauge "director_interface_attached" ["interface", "mode"],
        "1 for each interface that the program is attached to.";
    PACKETS: Counter "director_packets_total" ["verdict", "reason"],
        "Packets by verdict (tx, redirect, reply, pass, drop) and reason.";
    FLOW_CAPACITY: Gauge "director_flow_table_capacity_flows" NONE,
        "Flows that the flow table is sized for.";
    FLOWS_ESTABLISHED: Gauge "director_flow_table_established_flows" NONE,
        "Established flows in the flow table; an estimate if it is large and busy.";
    SERVICE_UP: Gauge "director_service_up" SERVICE,
        "1 if enough of the service's backends are up (quorum).";
    SERVICE_PANIC: Gauge "director_service_panic" SERVICE,
        "1 if so many backends are down at once that all are kept (panic).";
    SERVICE_BACKENDS: Gauge "director_service_backends" SERVICE,
        "Configured backends.";
    SERVICE_BACKENDS_UP: Gauge "director_service_backends_up" SERVICE,
        "Backends that are up.";
    SERVICE_FLOWS: Counter "director_service_flows_total" SERVICE,
        "Flows scheduled.";
    SERVICE_PACKETS: Counter "director_service_packets_total" SERVICE,
        "Packets forwarded.";
    SERVICE_BYTES: Counter "director_service_bytes_total" SERVICE,
        "Bytes of IP packets forwarded, as sent by clients.";
    SERVICE_DROPPED: Counter "director_service_dropped_packets_total" SERVICE,
        "Packets that reached no backend: dropped, or answered with an ICMP error.";
    SERVICE_UNTRACKED: Counter "director_service_untracked_flows_total" SERVICE,
        "Packets of flows that the flow table had no room for: the ring alone places them.";
    SERVICE_UNRECORDED: Counter "director_service_unrecorded_flows_total" SERVICE,
        "Deprecated: the former name of director_service_untracked_flows_total, gone with the next version.";
    SERVICE_ESTABLISHED: Gauge "director_service_established_flows" SERVICE,
        "Established flows.";
    BACKEND_UP: Gauge "director_backend_up" BACKEND,
        "1 if the backend's checks pass, or it has none.";
    BACKEND_WEIGHT: Gauge "director_backend_weight" BACKEND,
        "Weight in effect, after health, agent, slow start and overrides.";
    BACKEND_CONFIGURED_WEIGHT: Gauge "director_backend_configured_weight" BACKEND,
        "Weight in the configuration.";
    BACKEND_DRAINING: Gauge "director_backend_draining" BACKEND,
        "1 if the backend gets no new flows: drained by an administrator, or removed.";
    BACKEND_FLOWS: Counter "director_backend_flows_total" BACKEND,
        "Flows scheduled to this backend.";
    BACKEND_PACKETS: Counter "director_backend_packets_total" BACKEND,
        "Packets forwarded to this backend.";
    BACKEND_BYTES: Counter "director_backend_bytes_total" BACKEND,
        "Bytes of IP packets forwarded to this backend, as sent by clients.";
    BACKEND_ESTABLISHED: Gauge "director_backend_established_flows" BACKEND,
        "Established flows of this backend.";
    TRUNCATED: Gauge "director_metrics_truncated" NONE,
        "1 if there are too many backends for series by backend.";
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
