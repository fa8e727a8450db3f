//! The listing of `ipvsadm -L -n`, column by column, for scripts and people that rely on it.
//!
//! The formats are those of ipvsadm 1.31; the test in a virtual machine compares them with it.

use std::{fmt::Write as _, net::SocketAddr};

use super::VirtualService;
use crate::policy::{
    config::model::{ForwardMode, Protocol},
    scheduler::Lvs,
};

/// The version of IPVS whose listing this imitates.
const VERSION: &str = "1.2.1";

/// Counters of a service or a server; replies bypass the director and are not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Flows; per second in a rate.
    pub conns: u64,
    /// Packets towards servers.
    pub packets: u64,
    /// Bytes towards servers.
    pub bytes: u64,
}

/// A service of the listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The service.
    pub service: VirtualService,
    /// Its counters.
    pub counted: Counted,
    /// Its servers, in the order of the service.
    pub servers: Vec<ListedServer>,
}

/// The numbers of a server, besides its rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListedServer {
    /// Its counters.
    pub counted: Counted,
    /// TCP flows that are being opened, or are open.
    pub active: u64,
    /// All others.
    pub inactive: u64,
}

/// Which columns there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Columns {
    /// Forward, weight and connections.
    Plain,
    /// Counters since the start.
    Stats,
    /// Counters per second.
    Rate,
    /// Limits, which Director has none of.
    Thresholds,
    /// Persistent connections, which Director has none of.
    Persistent,
}

/// A known flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedConn {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Seconds until it expires.
    pub expires_s: u64,
    /// IPVS's name for its state.
    pub state: &'static str,
    /// The client's address, if it is known.
    pub client: Option<SocketAddr>,
    /// The service's address.
    pub service: SocketAddr,
    /// The address of its server.
    pub server: SocketAddr,
}

/// The listing of services. `size` is the capacity of the flow table; `exact` prints large numbers
/// in full.
pub fn services(size: u64, services: &[Listed], columns: Columns, exact: bool) -> String {
    let mut out = format!("IP Virtual Server version {VERSION} (size={size})\n");
    let title = "Prot LocalAddress:Port";
    let numbers = |names: [&str; 5]| {
        let names = names.map(|name| format!(" {name:>8}")).concat();
        format!("{title:<33}{names}\n  -> RemoteAddress:Port\n")
    };
    out += &match columns {
        Columns::Plain => format!(
            "{title} Scheduler Flags\n  -> RemoteAddress:Port           Forward Weight ActiveConn \
             InActConn\n"
        ),
        Columns::Stats => numbers(["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"]),
        Columns::Rate => numbers(["CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"]),
        Columns::Thresholds => format!(
            "{title:<33} {:<10} {:<10} {:<10} {:<10}\n  -> RemoteAddress:Port\n",
            "Uthreshold", "Lthreshold", "ActiveConn", "InActConn"
        ),
        Columns::Persistent => format!(
            "{title:<33} {:<9} {:<11} {:<10} {:<10}\n  -> RemoteAddress:Port\n",
            "Weight", "PersistConn", "ActiveConn", "InActConn"
        ),
    };
    for listed in services {
        service(&mut out, listed, columns, exact);
    }
    out
}

fn service(out: &mut String, listed: &Listed, columns: Columns, exact: bool) {
    let service = &listed.service;
    let name = format!("{:<4} {}", protocol(service.protocol), service.address);
    let line = match columns {
        Columns::Stats | Columns::Rate => format!("{name:<33}{}", counted(listed.counted, exact)),
        _ => {
            let Lvs { name: scheduler, flags } = service.scheduler.description().nearest_lvs;
            let flags = if flags.is_empty() { String::new() } else { format!(" ({flags})") };
            format!("{name} {scheduler}{flags}")
        }
    };
    put(out, &line);
    for (server, known) in service.servers.iter().zip(&listed.servers) {
        let address = SocketAddr::new(server.address, service.address.port()).to_string();
        let ListedServer { active, inactive, counted: numbers } = *known;
        let forward = match server.forward {
            ForwardMode::Direct => "Route",
            ForwardMode::Tunnel => "Tunnel",
        };
        let weight = server.weight;
        let rest = match columns {
            Columns::Plain => format!(" {forward:<7} {weight:<6} {active:<10} {inactive:<10}"),
            Columns::Stats | Columns::Rate => counted(numbers, exact),
            Columns::Thresholds => {
                format!(" {:<10} {:<10} {active:<10} {inactive:<10}", 0, 0)
            }
            Columns::Persistent => {
                format!(" {weight:<9} {:<11} {active:<10} {inactive:<10}", 0)
            }
        };
        put(out, &format!("  -> {address:<28}{rest}"));
    }
}

/// The list of connections. An unknown field is a dash.
pub fn connections<'a>(conns: impl IntoIterator<Item = &'a ListedConn>) -> String {
    let mut out = "IPVS connection entries\n".to_owned();
    put(
        &mut out,
        &format!("pro expire {:<11} {:<18} {:<18} {}", "state", "source", "virtual", "destination"),
    );
    for conn in conns {
        let client = conn.client.map_or_else(|| "-".to_owned(), |client| client.to_string());
        let expire = format!("{:02}:{:02}", conn.expires_s / 60, conn.expires_s % 60);
        let line = format!(
            "{:<3} {expire:<6} {:<11} {client:<18} {:<18} {}",
            protocol(conn.protocol),
            conn.state,
            conn.service.to_string(),
            conn.server
        );
        put(&mut out, &line);
    }
    out
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    }
}

/// Conns, InPkts, OutPkts, InBytes, OutBytes: replies bypass a director without NAT.
fn counted(counted: Counted, exact: bool) -> String {
    [counted.conns, counted.packets, 0, counted.bytes, 0].map(|n| number(n, exact)).concat()
}

/// Nine columns; above a hundred million in thousands, millions and so on.
fn number(n: u64, exact: bool) -> String {
    if exact {
        let digits = n.to_string();
        return if digits.len() <= 8 { format!("{n:>9}") } else { format!(" {digits}") };
    }
    match n {
        0..=99_999_999 => format!("{n:>9}"),
        100_000_000..=999_999_999 => format!("{:>8}K", n / 1_000),
        1_000_000_000..=99_999_999_999 => format!("{:>8}M", n / 1_000_000),
        100_000_000_000..=99_999_999_999_999 => format!("{:>8}G", n / 1_000_000_000),
        _ => format!("{:>8}T", n / 1_000_000_000_000),
    }
}

fn put(out: &mut String, line: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::export::RealServer;

    fn server(address: &str, weight: u16, forward: ForwardMode) -> RealServer {
        RealServer { address: address.parse().expect("an address"), weight, forward }
    }

    fn listed() -> Vec<Listed> {
        let counted = |conns, packets, bytes| Counted { conns, packets, bytes };
        vec![
            Listed {
                service: VirtualService {
                    scheduler: crate::policy::scheduler::Scheduler::Maglev,
                    protocol: Protocol::Tcp,
                    address: "192.0.2.10:80".parse().expect("an address"),
                    servers: vec![
                        server("10.0.0.1", 1, ForwardMode::Direct),
                        server("10.0.0.2", 65_535, ForwardMode::Direct),
                    ],
                },
                counted: counted(15, 120, 1_200_345_678),
                servers: vec![
                    ListedServer { counted: counted(5, 20, 9600), active: 3, inactive: 12 },
                    ListedServer {
                        counted: counted(10, 100, 123_456_789_012_345),
                        active: 0,
                        inactive: 0,
                    },
                ],
            },
            Listed {
                service: VirtualService {
                    scheduler: crate::policy::scheduler::Scheduler::Maglev,
                    protocol: Protocol::Udp,
                    address: "[2001:db8::1]:53".parse().expect("an address"),
                    servers: vec![server("2001:db8:1:2:3:4:5:6", 0, ForwardMode::Tunnel)],
                },
                counted: Counted::default(),
                servers: vec![ListedServer { active: 0, inactive: 7, ..ListedServer::default() }],
            },
        ]
    }

    #[test]
    fn plain_columns() {
        assert_eq!(
            services(4096, &listed(), Columns::Plain, false),
            "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  192.0.2.10:80 mh (mh-port)
  -> 10.0.0.1:80                  Route   1      3          12        \n\
\u{20} -> 10.0.0.2:80                  Route   65535  0          0         \n\
UDP  [2001:db8::1]:53 mh (mh-port)
  -> [2001:db8:1:2:3:4:5:6]:53    Tunnel  0      0          7         \n"
        );
    }

    #[test]
    fn counters() {
        assert_eq!(
            services(4096, &listed(), Columns::Stats, false),
            "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes
  -> RemoteAddress:Port
TCP  192.0.2.10:80                      15      120        0    1200M        0
  -> 10.0.0.1:80                         5       20        0     9600        0
  -> 10.0.0.2:80                        10      100        0     123T        0
UDP  [2001:db8::1]:53                    0        0        0        0        0
  -> [2001:db8:1:2:3:4:5:6]:53           0        0        0        0        0
"
        );
        let rate = services(1, &listed(), Columns::Rate, true);
        let lines: Vec<&str> = rate.lines().collect();
        assert_eq!(
            lines[1],
            "Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS"
        );
        assert_eq!(
            lines[5],
            "  -> 10.0.0.2:80                        10      100        0 123456789012345        0"
        );
    }

    #[test]
    fn limits_and_persistence() {
        let thresholds = services(1, &listed(), Columns::Thresholds, false);
        let lines: Vec<&str> = thresholds.lines().collect();
        assert_eq!(
            lines[1],
            "Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn "
        );
        assert_eq!(
            lines[4],
            "  -> 10.0.0.1:80                  0          0          3          12        "
        );
        let persistent = services(1, &listed(), Columns::Persistent, false);
        let lines: Vec<&str> = persistent.lines().collect();
        assert_eq!(
            lines[1],
            "Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn "
        );
        assert_eq!(
            lines[5],
            "  -> 10.0.0.2:80                  65535     0           0          0         "
        );
    }

    #[test]
    fn numbers_are_cut_as_ipvsadm_cuts_them() {
        for (n, short) in [
            (99_999_999, " 99999999"),
            (100_000_000, "  100000K"),
            (999_999_999, "  999999K"),
            (1_000_000_000, "    1000M"),
            (100_000_000_000, "     100G"),
            (100_000_000_000_000, "     100T"),
        ] {
            assert_eq!(number(n, false), short);
        }
        assert_eq!(number(99_999_999, true), " 99999999");
        assert_eq!(number(100_000_000, true), " 100000000");
    }

    #[test]
    fn connections_with_and_without_clients() {
        let conn = |client: Option<&str>| ListedConn {
            protocol: Protocol::Tcp,
            expires_s: 898,
            state: "ESTABLISHED",
            client: client.map(|client| client.parse().expect("an address")),
            service: "192.0.2.10:80".parse().expect("an address"),
            server: "10.0.0.1:80".parse().expect("an address"),
        };
        assert_eq!(
            connections(&[conn(Some("198.51.100.7:40000")), conn(None)]),
            "\
IPVS connection entries
pro expire state       source             virtual            destination
TCP 14:58  ESTABLISHED 198.51.100.7:40000 192.0.2.10:80      10.0.0.1:80
TCP 14:58  ESTABLISHED -                  192.0.2.10:80      10.0.0.1:80
"
        );
    }
}
