//! Dumps are imported and exported again: what was carried over is the same rule by rule.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use director_userspace::{
    migrate::{
        export,
        import::{self, Names, Options},
    },
    policy::config,
};
use proptest::prelude::*;

/// A service of a dump, as it is written.
#[derive(Clone, Debug)]
struct Service {
    kind: &'static str,
    address: SocketAddr,
    scheduler: &'static str,
    persistent: Option<u32>,
    how: &'static str,
    servers: BTreeMap<IpAddr, u32>,
}

const CARRIED: [&str; 8] =
    ["rr", "wrr", "lc", "wlc", "sed", "nq", "sh -b sh-port", "mh -b mh-port"];
const LEFT_OUT: [&str; 5] = ["sh", "mh", "dh", "fo", "lblc"];

impl Service {
    fn is_carried(&self) -> bool {
        let is_one_family =
            self.servers.keys().all(|server| server.is_ipv4() == self.address.is_ipv4());
        self.kind != "--sctp-service"
            && self.persistent.is_none()
            && !self.servers.is_empty()
            && CARRIED.contains(&self.scheduler)
            && match self.how {
                "-m" => false,
                "-g" => is_one_family,
                _ => true,
            }
    }

    /// As `ipvsadm -S -n` prints it.
    fn write(&self, out: &mut String) {
        let Self { kind, address, scheduler, how, .. } = self;
        let persistent = self.persistent.map(|n| format!(" -p {n}")).unwrap_or_default();
        writeln!(out, "-A {kind} {address} -s {scheduler}{persistent}").expect("a string");
        for (server, weight) in &self.servers {
            let server = SocketAddr::new(*server, address.port());
            let tunnel = if *how == "-i" { " --tun-type ipip" } else { "" };
            writeln!(out, "-a {kind} {address} -r {server} {how} -w {weight}{tunnel}")
                .expect("a string");
        }
    }

    /// The same with Director's scheduler, and the effective weights.
    fn normalised(&self) -> Self {
        let ignores_weights = ["rr", "lc"].contains(&self.scheduler);
        let weight = |weight: u32| if ignores_weights { weight.min(1) } else { weight };
        let servers = self.servers.iter().map(|(server, n)| (*server, weight(*n))).collect();
        Self { scheduler: "mh -b mh-port", servers, ..self.clone() }
    }
}

fn dump(services: &[Service]) -> String {
    let mut out = String::new();
    services.iter().for_each(|service| service.write(&mut out));
    out
}

fn vip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u8..=255).prop_map(|n| IpAddr::from([192, 0, 2, n])),
        any::<u16>().prop_map(|n| IpAddr::from([0x2001, 0xdb8, 0xf, 0, 0, 0, 0, n])),
    ]
}

fn server() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        3 => (0u8..=255, 0u8..=255).prop_map(|(a, b)| IpAddr::from([10, 0, a, b])),
        1 => any::<u16>().prop_map(|n| IpAddr::from([0x2001, 0xdb8, 0xb, 0, 0, 0, 0, n])),
    ]
}

fn service() -> impl Strategy<Value = Service> {
    let kind = prop_oneof![4 => Just("-t"), 2 => Just("-u"), 1 => Just("--sctp-service")];
    let scheduler = prop_oneof![
        5 => prop::sample::select(&CARRIED[..]),
        1 => prop::sample::select(&LEFT_OUT[..]),
    ];
    let how = prop_oneof![3 => Just("-g"), 3 => Just("-i"), 1 => Just("-m")];
    let persistent = prop::option::weighted(0.2, 1u32..100_000);
    let weight = prop_oneof![0u32..5, 0u32..=65_535];
    let servers = prop::collection::btree_map(server(), weight, 0..6);
    (kind, vip(), 1u16.., scheduler, persistent, how, servers).prop_map(
        |(kind, vip, port, scheduler, persistent, how, servers)| {
            let address = SocketAddr::new(vip, port);
            Service { kind, address, scheduler, persistent, how, servers }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn an_export_of_an_import_is_what_was_carried_over(
        mut services in prop::collection::vec(service(), 0..12),
    ) {
        let mut taken = BTreeSet::new();
        services.retain(|service| taken.insert((service.kind, service.address)));
        let source = dump(&services);
        let imported =
            import::ipvsadm("dump", source.as_bytes(), &Names::default(), &Options::default());
        let imported = imported.map_err(|errors| TestCaseError::fail(errors.to_string()))?;
        let config = config::parse("import", &imported.yaml);
        let config = config.map_err(|errors| TestCaseError::fail(errors.to_string()))?.config;
        let exported = export::ipvsadm(&export::of_config(&config)).text;
        let carried: Vec<Service> =
            services.iter().filter(|s| s.is_carried()).map(Service::normalised).collect();
        prop_assert_eq!(&exported, &dump(&carried), "{}", source);

        // A second import changes nothing.
        let again =
            import::ipvsadm("dump", exported.as_bytes(), &Names::default(), &Options::default());
        let again = again.map_err(|errors| TestCaseError::fail(errors.to_string()))?;
        prop_assert!(again.report.notes.is_empty(), "{:?}", again.report.notes);
        let again = config::parse("import", &again.yaml).expect("valid").config;
        prop_assert_eq!(export::ipvsadm(&export::of_config(&again)).text, exported);
    }
}
