//! Files under `import/`, and a summary of their import.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use director_userspace::{
    migrate::import::{self, Effect, Imported, Names, Options},
    policy::config::{
        self,
        model::{Flows, OnDown, Probe, Service, Start},
    },
};

/// Host names used in the fixtures.
const HOSTS: &str = "192.0.2.200 shop.example.net shop\n10.0.0.1 node-a\n10.0.0.2 node-b\n";
const SERVICES: &str = "https 443/tcp\ndomain 53/tcp\ndomain 53/udp\n";

/// A file to be imported.
pub(crate) struct Fixture {
    path: PathBuf,
}

impl Fixture {
    /// Every file.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for directory in ["ipvsadm", "keepalived"] {
            for entry in fs::read_dir(root().join(directory)).expect("there") {
                let path = entry.expect("readable").path();
                let is_one = path.extension().is_some_and(|e| e != "expected") && path.is_file();
                all.extend(is_one.then_some(Self { path }));
            }
        }
        all.sort_by(|a, b| a.path.cmp(&b.path));
        all
    }

    pub(crate) fn named(name: &str) -> Self {
        Self { path: root().join(name) }
    }

    pub(crate) fn name(&self) -> String {
        self.path.strip_prefix(root()).expect("below").display().to_string()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn expected_path(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".expected");
        name.into()
    }

    pub(crate) fn import(&self) -> Imported {
        self.import_with(false)
    }

    pub(crate) fn import_with(&self, lossy: bool) -> Imported {
        let options = Options { lossy, ..Options::default() };
        let result = if self.path.extension().is_some_and(|extension| extension == "conf") {
            import::keepalived_file(&self.path, &options)
        } else {
            let bytes = fs::read(&self.path).expect("there");
            let names = Names::new(HOSTS, SERVICES);
            import::ipvsadm("dump", &bytes, &names, &options)
        };
        result.unwrap_or_else(|errors| panic!("{}: {errors}", self.name()))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import")
}

/// Services, then what was not carried over, one per line.
pub(crate) fn summary(imported: &Imported) -> String {
    let config = config::parse("import", &imported.yaml)
        .unwrap_or_else(|errors| panic!("{errors}\n{}", imported.yaml))
        .config;
    let mut out = String::new();
    let mut put = |line: String| writeln!(out, "{line}").expect("a string");
    let (flows, usual) = (&config.flows, Flows::default());
    if *flows != usual {
        put(format!("flows {:?} {:?} {:?}", flows.tcp, flows.tcp_closing, flows.udp));
    }
    for service in &config.services {
        let backends = service.backends.iter();
        let backends: Vec<_> = backends.map(|b| format!("{}*{}", b.address, b.weight)).collect();
        put(format!("{} {} {}", service.frontend, service.forward, backends.join(" ")));
        health(service, &mut put);
    }
    for note in &imported.report.notes {
        let effect = match note.effect {
            Effect::LeftOut => "left-out",
            Effect::Changed => "changed",
            Effect::NotCarried => "not-carried",
        };
        let file = Path::new(note.place.file.as_ref());
        let file = file.file_name().expect("a file").to_string_lossy();
        put(format!("{effect} {} {file}:{} {}", note.what, note.place.line, note.subject));
    }
    out
}

fn health(service: &Service, put: &mut impl FnMut(String)) {
    let health = &service.health;
    for check in &health.checks {
        let mut line = format!("  {}", check.probe.as_str());
        let mut add = |text: String| line += &format!(" {text}");
        match &check.probe {
            Probe::Http(http) | Probe::Https(http) => {
                add(format!("{} {:?}", http.path, http.status));
                http.host.iter().for_each(|host| add(format!("host={host}")));
                http.body.iter().for_each(|body| add(format!("body={body}")));
            }
            Probe::Dns(dns) => add(format!("{} {}", dns.name, dns.record)),
            Probe::Udp(udp) => add(format!("{:?} {:?}", udp.send, udp.expect)),
            Probe::Exec(exec) => add(format!("{:?} as {}", exec.command, exec.user)),
            Probe::Tcp | Probe::Icmp | Probe::Grpc(_) => {}
        }
        check.port.iter().for_each(|port| add(format!("port {port}")));
        add(format!("every {:?} within {:?}", check.interval, check.timeout));
        add(format!("rise {} fall {}", check.rise, check.fall));
        if check.start == Start::Down {
            add("start down".into());
        }
        put(line);
    }
    if (health.quorum, health.hysteresis) != (1, 0) {
        put(format!("  quorum {} hysteresis {}", health.quorum, health.hysteresis));
    }
    if health.on_down == OnDown::Keep {
        put("  on_down keep".into());
    }
    if let Some(sorry) = &service.sorry {
        put(format!("  sorry {}", sorry.address));
    }
}
