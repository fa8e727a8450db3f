//! LVS's schedulers: what a service that moves here would notice.

use super::Scheduler;

/// One of LVS's schedulers (`ipvsadm -s`).
pub struct LvsScheduler {
    /// Its name in LVS.
    pub name: &'static str,
    /// Its name in words, which configurations may use, too.
    pub long_name: &'static str,
    /// Whether it places flows by weight.
    pub weights: Weights,
    /// What clients or servers would notice if each connection were placed for itself; `None` if
    /// nothing.
    pub affinity: Option<&'static str>,
    /// The flag with which `affinity` does not hold; empty: there is none.
    pub affinity_ends_with: &'static str,
}

/// Whether a scheduler places flows by weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// By weight.
    Used,
    /// Every weight above 0 counts the same.
    Ignored,
}

const SAME_CLIENT: Option<&str> = Some("keeps the connections of a client's address on one server");
const SAME_ADDRESS: Option<&str> = Some("keeps an address's connections on one server");

const fn row(
    name: &'static str,
    long_name: &'static str,
    weights: Weights,
    affinity: Option<&'static str>,
    affinity_ends_with: &'static str,
) -> LvsScheduler {
    LvsScheduler { name, long_name, weights, affinity, affinity_ends_with }
}

/// Those of the kernel (net/netfilter/ipvs).
pub const ALL: [LvsScheduler; 14] = [
    row("rr", "round-robin", Weights::Ignored, None, ""),
    row("wrr", "weighted-round-robin", Weights::Used, None, ""),
    row("lc", "least-connections", Weights::Ignored, None, ""),
    row("wlc", "weighted-least-connections", Weights::Used, None, ""),
    row("lblc", "locality-based-least-connections", Weights::Used, SAME_ADDRESS, ""),
    row(
        "lblcr",
        "locality-based-least-connections-with-replication",
        Weights::Used,
        SAME_ADDRESS,
        "",
    ),
    row("dh", "destination-hash", Weights::Ignored, SAME_ADDRESS, ""),
    row("sh", "source-hash", Weights::Used, SAME_CLIENT, "sh-port"),
    row("sed", "shortest-expected-delay", Weights::Used, None, ""),
    row("nq", "never-queue", Weights::Used, None, ""),
    row(
        "fo",
        "failover",
        Weights::Used,
        Some("uses one server and holds the others in reserve"),
        "",
    ),
    row("ovf", "overflow", Weights::Used, Some("uses the next server only when one is full"), ""),
    row("mh", "maglev-hash", Weights::Used, SAME_CLIENT, "mh-port"),
    row("twos", "power-of-two-choices", Weights::Used, None, ""),
];

/// Words of other balancers for what LVS has no name for.
const OTHERS: [&str; 1] = ["random"];

/// The scheduler of this name.
pub fn find(name: &str) -> Option<&'static LvsScheduler> {
    ALL.iter().find(|scheduler| scheduler.name == name)
}

/// Words that name a scheduler which this version does not have.
pub fn unsupported() -> Vec<&'static str> {
    let supported = |word: &&str| {
        Scheduler::ALL.iter().any(|scheduler| {
            let described = scheduler.description();
            described.name == *word || described.aliases.contains(word)
        })
    };
    let words = ALL.iter().flat_map(|scheduler| [scheduler.name, scheduler.long_name]);
    words.chain(OTHERS).filter(|word| !supported(word)).collect()
}
