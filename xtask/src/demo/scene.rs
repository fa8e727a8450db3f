//! The scenario: two services on three machines. No I/O.

use std::{fmt::Write as _, net::IpAddr};

/// The director's interface in the lab.
const INTERFACE: &str = "eth0";
/// The machines by the lab's names: it numbers them in the order of the file.
const MACHINES: [(&str, [u16; 2]); 3] =
    [("b1", [11, 0x11]), ("b2", [12, 0x12]), ("b3", [13, 0x13])];
/// The machine that is removed while requests run.
pub(super) const REMOVED: &str = "b2";
/// The port of every service.
pub(super) const PORT: u16 = 80;

/// A virtual service.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) name: &'static str,
    pub(super) vip: IpAddr,
    pub(super) forward: &'static str,
    pub(super) backends: Vec<Backend>,
}

/// A machine as a backend of one service.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    pub(super) node: &'static str,
    pub(super) address: IpAddr,
    pub(super) weight: u32,
}

impl Service {
    /// The fraction of new connections that each backend should get, in the order of the backends.
    /// `without` is the node that gets none.
    pub(super) fn fair(&self, without: Option<&str>) -> Vec<f64> {
        let weight = |backend: &Backend| match without {
            Some(node) if node == backend.node => 0.0,
            _ => f64::from(backend.weight),
        };
        let total: f64 = self.backends.iter().map(weight).sum();
        self.backends.iter().map(|backend| weight(backend) / total).collect()
    }

    /// The service's URL for `path`, which begins with a slash.
    pub(super) fn url(&self, path: &str) -> String {
        match self.vip {
            IpAddr::V4(vip) => format!("http://{vip}:{PORT}{path}"),
            IpAddr::V6(vip) => format!("http://[{vip}]:{PORT}{path}"),
        }
    }
}

/// Both services: IPv4 through tunnels, IPv6 by direct routing.
pub(super) fn services() -> Vec<Service> {
    let backends = |weights: [u32; 3], address: fn([u16; 2]) -> IpAddr| {
        let machines = MACHINES.iter().zip(weights);
        machines
            .map(|(&(node, numbers), weight)| Backend { node, address: address(numbers), weight })
            .collect()
    };
    let v4 = |[last, _]: [u16; 2]| IpAddr::from([10, 0, 0, last as u8]);
    let v6 = |[_, last]: [u16; 2]| IpAddr::from([0x2001, 0xdb8, 1, 0, 0, 0, 0, last]);
    vec![
        Service {
            name: "web",
            vip: IpAddr::from([192, 0, 2, 10]),
            forward: "tunnel",
            backends: backends([1, 2, 3], v4),
        },
        Service {
            name: "web-v6",
            vip: IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10]),
            forward: "direct",
            backends: backends([3, 2, 1], v6),
        },
    ]
}

/// The addresses of each machine, in the format of `director lab up --host`.
pub(super) fn hosts(services: &[Service]) -> Vec<String> {
    let addresses = |node: &str| {
        let all = services.iter().flat_map(|service| &service.backends);
        let own = all.filter(|backend| backend.node == node);
        own.map(|backend| backend.address.to_string()).collect::<Vec<_>>().join(",")
    };
    MACHINES.iter().map(|(node, _)| addresses(node)).collect()
}

/// The nodes with a server.
pub(super) fn nodes() -> impl Iterator<Item = &'static str> {
    MACHINES.iter().map(|(node, _)| *node)
}

/// The configuration file, with all backends or without one node's.
pub(super) fn yaml(services: &[Service], without: Option<&str>) -> String {
    let mut text = format!("interfaces:\n  - name: {INTERFACE}\n\nservices:\n");
    for Service { name, vip, forward, backends } in services {
        let _ = write!(
            text,
            "  - name: {name}\n    address: \"{vip}\"\n    protocol: tcp\n    port: {PORT}\n    \
             forward: {forward}\n    backends:\n"
        );
        for Backend { node, address, weight } in backends {
            if without != Some(*node) {
                let _ = writeln!(text, "      - {{address: \"{address}\", weight: {weight}}}");
            }
        }
    }
    text
}

/// The lines that are removed from the file with a node.
pub(super) fn deleted_lines(services: &[Service], node: &str) -> Vec<String> {
    let (before, after) = (yaml(services, None), yaml(services, Some(node)));
    let kept: Vec<&str> = after.lines().collect();
    before.lines().filter(|line| !kept.contains(line)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_the_weights_and_exclude_the_removed_node() {
        let services = services();
        let round =
            |shares: Vec<f64>| shares.iter().map(|s| (s * 1000.0).round()).collect::<Vec<_>>();
        assert_eq!(round(services[0].fair(None)), [167.0, 333.0, 500.0]);
        assert_eq!(round(services[0].fair(Some("b2"))), [250.0, 0.0, 750.0]);
        assert_eq!(round(services[1].fair(Some("b2"))), [750.0, 0.0, 250.0]);
    }

    #[test]
    fn only_the_lines_of_the_removed_machine_are_deleted() {
        let services = services();
        assert_eq!(
            deleted_lines(&services, REMOVED),
            [
                "      - {address: \"10.0.0.12\", weight: 2}",
                "      - {address: \"2001:db8:1::12\", weight: 2}"
            ]
        );
        let lines = |without| yaml(&services, without).lines().count();
        assert_eq!(lines(None), lines(Some(REMOVED)) + 2);
    }

    #[test]
    fn each_machine_has_an_address_of_each_family() {
        let hosts = hosts(&services());
        assert_eq!(
            hosts,
            ["10.0.0.11,2001:db8:1::11", "10.0.0.12,2001:db8:1::12", "10.0.0.13,2001:db8:1::13"]
        );
    }
}
