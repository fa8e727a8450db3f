//! The Debian package on a bare Debian 12, in a virtual machine: it installs, its service starts
//! and forwards, and its removal cleans up.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
    time::Duration,
};

use director_tests::{live::binary, tree::read};
use director_userspace::policy::config;
use xtask::{
    dist::Package,
    vm::{KernelVersion, System, Vm},
};

const SCRIPT: &str = include_str!("dist/machine.sh");

const CONFIG: &str = "\
interfaces:
  - name: net0
    assign_vips: true
  - name: net1
    role: egress
defaults:
  health: {type: tcp, interval: 1s, timeout: 1s, fall: 3}
services:
  - name: web
    address: 192.0.2.10
    protocol: tcp
    port: 80
    forward: tunnel
    backends:
      - {address: 10.0.2.2}
";

/// A second director on the same host.
const OTHER: &str = "\
interfaces: [{name: net2}]
services:
  - name: other
    address: 192.0.2.20
    protocol: tcp
    port: 80
    forward: direct
    backends: [{address: 10.0.4.2, mac: \"02:00:00:00:00:01\"}]
";

const SERVER: &str = r#"use IO::Socket::INET;
$SIG{PIPE} = "IGNORE"; # Health checks close early.
my $server = IO::Socket::INET->new(Listen => 5, LocalPort => 80, ReuseAddr => 1) or die $!;
while (my $client = $server->accept) { <$client>; print $client "hello from the backend\n"; }
"#;

const CLIENT: &str = r#"use IO::Socket::INET;
my $server = IO::Socket::INET->new(PeerAddr => "192.0.2.10:80", Timeout => 5) or die $!;
print $server "hello\n";
print <$server> // die "no answer";
"#;

/// `ethtool -K eth0 tx off` (SIOCETHTOOL, ETHTOOL_STXCSUM): a bare Debian has perl, and no ethtool.
const OFFLOAD: &str = r#"use Socket;
socket(my $socket, AF_INET, SOCK_DGRAM, 0) or die $!;
my $off = pack("LL", 0x17, 0);
ioctl($socket, 0x8946, pack("a16P", "eth0", $off)) or die $!;
"#;

/// A scratch directory, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn create(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("director-{name}-{}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn run(program: &str, arguments: &[&Path]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The package as it is, uncompressed, and the same with a higher version.
fn packages(scratch: &Scratch) -> [PathBuf; 2] {
    let package = Package { binary: binary(), version: "1.0.0".to_owned(), to: scratch.0.clone() };
    let deb = package.build().unwrap();
    let tree = scratch.0.join("tree");
    run("dpkg-deb", &[Path::new("--raw-extract"), &deb, &tree]);
    ["1.0.0", "1.0.1"].map(|version| {
        let control = tree.join("DEBIAN/control");
        let text = fs::read_to_string(&control).unwrap().replace("1.0.0", version);
        fs::write(&control, text).unwrap();
        let deb = scratch.0.join(format!("{version}.deb"));
        // Emulated machines decompress slowly.
        run("dpkg-deb", &[Path::new("-Znone"), Path::new("--build"), &tree, &deb]);
        deb
    })
}

/// What the machine printed between `@ name` and the next step.
fn step<'t>(text: &'t str, name: &str) -> &'t str {
    let (_, rest) = text.split_once(&format!("@ {name}\n")).unwrap_or_else(|| panic!("{text}"));
    rest.split("\n@ ").next().unwrap()
}

#[test]
fn the_package_works_on_a_bare_debian_from_install_to_purge() {
    let scratch = Scratch::create("dist");
    let [first, second] = packages(&scratch);
    let output = Vm::new(KernelVersion::V6_1)
        .system(&System::fetch().unwrap())
        .modules(["veth", "af_packet", "ipv6"])
        .file(&first, "/host/director_1.deb")
        .file(&second, "/host/director_2.deb")
        .file(scratch.write("director.yaml", CONFIG), "/host/director.yaml")
        .file(scratch.write("b.yaml", OTHER), "/host/b.yaml")
        .file(scratch.write("server.pl", SERVER), "/host/server.pl")
        .file(scratch.write("offload.pl", OFFLOAD), "/host/offload.pl")
        .file(scratch.write("client.pl", CLIENT), "/host/client.pl")
        .script(SCRIPT)
        .timeout(Duration::from_secs(600))
        .run()
        .unwrap();
    let text = &output.text;
    println!("{text}\n{:?}", output.elapsed);
    assert_eq!(output.status, 0, "{text}");

    let install = step(text, "install");
    assert!(install.contains("\ndirector:x:") && install.contains("\ndisabled"), "{install}");
    let units = step(text, "units");
    assert_eq!(units.trim().lines().count(), 1, "only the exposure: {units}");
    let (_, exposure) = units.split_once("director.service: ").unwrap();
    let exposure: f32 = exposure.split_whitespace().next().unwrap().parse().unwrap();
    assert!(exposure <= 3.0, "{units}");

    let answer = "hello from the backend";
    for name in ["start", "upgrade", "stop"] {
        assert!(step(text, name).contains(answer), "{name}: {text}");
    }
    let realserver = step(text, "realserver");
    assert!(realserver.starts_with("active\n") && realserver.contains("192.0.2.10"), "{text}");
    assert!(realserver.trim_end().ends_with("prog/xdp"), "{realserver}");
    let clock = step(text, "clock");
    let up = format!("{answer}\nup");
    assert_eq!(clock.trim(), format!("{up}\n{up}\nactive\n0"), "wall clock changes have no effect");
    let instance = step(text, "instance");
    assert!(instance.starts_with("active\n") && instance.contains(answer), "{instance}");
    assert_eq!((instance.matches("other").count(), instance.matches("web").count()), (1, 1));
    let doctor = step(text, "doctor");
    assert!(doctor.trim_end().ends_with("0 to improve, 0 failed"), "{doctor}");
    assert!(step(text, "install").contains("Setting up director (1.0.0)"), "{text}");
    assert!(step(text, "upgrade").contains("Setting up director (1.0.1)"), "{text}");

    let remove = step(text, "remove");
    assert!(remove.contains("cannot access '/sys/fs/bpf/director'"), "{remove}");
    assert_eq!(remove.lines().filter(|line| *line == "0").count(), 4, "{remove}");
    let purge = step(text, "purge");
    assert_eq!(purge.matches("cannot access").count(), 3, "{purge}");
}

#[test]
fn the_package_contains_completions_man_pages_and_the_schema() {
    let scratch = Scratch::create("dist-content");
    let package = Package { binary: binary(), version: "9.9".to_owned(), to: scratch.0.clone() };
    let deb = package.build().unwrap();
    let fields = run("dpkg-deb", &[Path::new("--info"), &deb]);
    assert!(fields.contains("Version: 9.9\n") && fields.contains("libc6 (>= 2."), "{fields}");
    let tree = scratch.0.join("tree");
    run("dpkg-deb", &[Path::new("--raw-extract"), &deb, &tree]);
    for file in [
        "usr/share/bash-completion/completions/director",
        "usr/share/zsh/vendor-completions/_director",
        "usr/share/fish/vendor_completions.d/director.fish",
    ] {
        let text = fs::read_to_string(tree.join(file)).unwrap();
        assert!(text.contains("realserver"), "{file}");
    }
    for page in ["director", "director-run", "director-lab-up"] {
        let page = tree.join(format!("usr/share/man/man8/{page}.8.gz"));
        let text = run("zcat", &[&page]);
        assert!(text.contains(".SH NAME"), "{text}");
    }
    let schema = fs::read_to_string(tree.join("usr/share/director/director.schema.json")).unwrap();
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&schema).unwrap(),
        config::schema::schema()
    );
    // The default configuration is inert: started by mistake, it forwards nothing.
    let inert = config::load(&tree.join("etc/director/director.yaml")).unwrap().config;
    assert!(inert.services.is_empty() && inert.interfaces.is_empty());
    let conffiles = fs::read_to_string(tree.join("DEBIAN/conffiles")).unwrap();
    for file in conffiles.lines() {
        assert!(tree.join(file.trim_start_matches('/')).is_file(), "{file}");
    }
    for example in fs::read_dir(tree.join("usr/share/doc/director/examples")).unwrap() {
        let loaded = config::load(&example.unwrap().path()).unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    }
}

/// The unit starts as often as needed, after the network, and what it creates is private.
#[test]
fn the_unit_has_no_start_limit_and_creates_private_files() {
    let unit = read("xtask/src/dist/assets/director.service");
    let (_, rest) = unit.split_once("[Unit]\n").unwrap();
    let (head, rest) = rest.split_once("[Service]\n").unwrap();
    let (service, _) = rest.split_once("[Install]\n").unwrap();
    let has = |section: &str, line: &str| section.lines().any(|there| there == line);
    for line in ["StartLimitIntervalSec=0", "After=network-pre.target network.target"] {
        assert!(has(head, line), "{line}");
    }
    for line in [
        "Restart=on-failure",
        "UMask=0077",
        "StateDirectoryMode=0700",
        // The API's group passes it.
        "RuntimeDirectoryMode=0755",
    ] {
        assert!(has(service, line), "{line}");
    }
    if Command::new("systemd-analyze").arg("--version").output().is_ok_and(|o| o.status.success()) {
        let scratch = Scratch::create("dist-unit");
        // What it names need not be on this machine.
        let here = unit.replace("/usr/bin/director", "/bin/true");
        let here = here.lines().filter(|line| !line.starts_with("Documentation="));
        let path = scratch.write("director.service", &here.collect::<Vec<_>>().join("\n"));
        let verified = Command::new("systemd-analyze").arg("verify").arg(path).output().unwrap();
        assert!(verified.status.success(), "{verified:?}");
        assert_eq!(String::from_utf8_lossy(&verified.stderr), "");
    }
}
