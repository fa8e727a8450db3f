//! Every command of `director` that works on configurations and running directors: arguments,
//! output and exit codes. `lab`, `doctor`, `realserver` and `simulate` have separate tests.

use std::fs;

use director_tests::live::{Finished, Live, VIPS, command, finish};
use director_userspace::setup::lab::DEFAULT_CONFIG;

/// Runs `director` for commands that need no network.
fn director(line: &str) -> Finished {
    let words: Vec<&str> = line.split_whitespace().collect();
    finish(command(&words))
}

/// A file for `director check`, removed when dropped.
struct File(std::path::PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let name = format!("tcli{}-{name}.yaml", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, text).expect("written");
        Self(path)
    }

    fn check(&self, options: &str) -> Finished {
        director(&format!("check -f {} {options}", self.0.display()))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The names of a JSON object's fields.
#[track_caller]
fn fields(value: &serde_json::Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

const COMMANDS: [(&str, &[&str]); 14] = [
    ("run", &["--config <FILE>", "-f", "--instance <NAME>", "SIGHUP", "/etc/director"]),
    ("attach", &["--config <FILE>", "-f", "--instance <NAME>", "/etc/director"]),
    ("detach", &["[INTERFACE]...", "--instance <NAME>"]),
    ("check", &["--config <FILE>", "-f", "--output", "table", "json", "yaml", "Exits 2"]),
    ("plan", &["--config <FILE>", "-f", "--instance <NAME>"]),
    ("status", &["--instance <NAME>", "--output", "table", "json", "yaml"]),
    ("services", &["--wide", "--instance <NAME>", "--output", "table", "json", "yaml"]),
    (
        "backends",
        &["[SERVICE]", "--wide", "--instance <NAME>", "--output", "table", "json", "yaml"],
    ),
    (
        "stats",
        &["--interval <TIME>", "--count <N>", "--instance <NAME>", "--output", "json", "yaml"],
    ),
    ("top", &["--interval <TIME>", "--once", "--instance <NAME>"]),
    (
        "conns",
        &[
            "--service <NAME>",
            "--backend <ADDRESS>",
            "--client <PREFIX>",
            "--state <STATE>",
            "--idle-under <TIME>",
            "--idle-over <TIME>",
            "--count",
            "--sort",
            "--limit <N>",
            "--instance <NAME>",
            "--output",
            "clients: true",
        ],
    ),
    (
        "explain",
        &[
            "<FLOW>...",
            "--interface <NAME>",
            "--syn",
            "--ack",
            "--size <BYTES>",
            "--instance <NAME>",
            "--output",
            "without side effects",
        ],
    ),
    (
        "trace",
        &[
            "--filter <WORDS>",
            "--drops",
            "--sample <1/N>",
            "--count <N>",
            "--duration <TIME>",
            "--instance <NAME>",
            "--output",
            "json",
        ],
    ),
    (
        "capture",
        &[
            "--write <FILE>",
            "--snaplen <BYTES>",
            "--filter <WORDS>",
            "--sample <1/N>",
            "--instance <NAME>",
            "pcapng",
        ],
    ),
];

#[test]
fn help_names_every_option() {
    let all = director("--help").succeeded().prints(&["a layer-4 load balancer in XDP"]);
    for (command, options) in COMMANDS {
        director(&format!("{command} --help")).succeeded().prints(options);
        assert!(all.stdout.contains(&format!("\n  {command} ")), "{command}: {}", all.stdout);
    }
    for command in ["simulate", "lab", "doctor", "realserver"] {
        director(&format!("{command} --help")).succeeded().prints(&["Usage: director"]);
        assert!(all.stdout.contains(&format!("\n  {command} ")), "{command}: {}", all.stdout);
    }
    director("--version").succeeded().prints(&["director 0."]);
}

#[test]
fn wrong_usage_exits_2() {
    let nothing = director("");
    assert_eq!(nothing.code, Some(2), "{nothing:?}");
    nothing.reports(&["Usage: director <COMMAND>"]);
    for (line, words) in [
        ("attatch", &["unrecognized subcommand", "attach"][..]),
        ("attach --config", &["a value is required"]),
        ("status --output xml", &["xml", "table, json, yaml"]),
        ("status eth0", &["unexpected argument 'eth0'"]),
        ("attach --instance", &["a value is required"]),
    ] {
        let output = director(line);
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{output:?}");
        output.reports(words);
    }
}

#[test]
fn instance_names_are_checked_by_every_command() {
    let long = "x".repeat(64);
    for (command, _) in COMMANDS.iter().filter(|(command, _)| *command != "check") {
        for name in ["../etc", "Default", "a.b", "a_b", "''", &long] {
            let output = director(&format!("{command} --instance {name}"));
            assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{output:?}");
            output.reports(&["is not an instance name: use 1 to 63 of a-z, 0-9 and -"]);
        }
    }
}

#[test]
fn check_reports_a_valid_file() {
    let file = File::new("valid", DEFAULT_CONFIG);
    let output = file.check("").succeeded().prints(&["is valid: 2 services, 6 backends"]);
    assert_eq!(output.stderr, "");
    let verdict = file.check("--output json").succeeded().json();
    assert_eq!(fields(&verdict), ["errors", "valid", "warnings"]);
    assert_eq!(verdict["valid"], true);
    file.check("--output yaml").succeeded().prints(&["valid: true", "errors: []"]);
}

#[test]
fn check_warns_about_a_valid_file() {
    let some = DEFAULT_CONFIG.replace("10.0.0.12, weight: 2", "10.0.0.12");
    let file = File::new("warned", &some);
    let output = file.check("").succeeded().reports(&["warning: ", "weight"]);
    assert!(output.stdout.contains("is valid"), "{output:?}");
    let verdict = file.check("--output json").succeeded().json();
    assert_eq!(verdict["warnings"][0]["kind"], "some-weights", "{verdict}");
    assert_eq!(verdict["valid"], true);
}

#[test]
fn check_lists_every_error_with_its_position() {
    let bad = DEFAULT_CONFIG
        .replace("forward: direct", "forwrad: direct")
        .replace("10.0.0.12", "10.0.0.1200")
        .replace("port: 80", "port: 0");
    let file = File::new("invalid", &bad);
    let output = file.check("");
    assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{output:?}");
    let path = file.0.display().to_string();
    let output = output.reports(&["forwrad", "10.0.0.1200", "help: ", "forward"]);
    let positions =
        output.stderr.lines().filter(|l| l.starts_with(&format!("error: {path}:"))).count();

    let json = file.check("--output json");
    assert_eq!((json.code, json.stderr.as_str()), (Some(2), ""), "{json:?}");
    let verdict = json.json();
    assert_eq!(verdict["valid"], false);
    let errors = verdict["errors"].as_array().expect("a list");
    assert_eq!(errors.len(), positions, "{errors:?}");
    assert!(errors.len() >= 4, "{errors:?}");
    for error in errors {
        let names = ["column", "file", "hint", "kind", "line", "message", "path"];
        assert_eq!(fields(error), names, "{error}");
        assert!(error["line"].as_u64().expect("a number") > 1, "{error}");
    }
    let yaml = file.check("--output yaml");
    assert_eq!(yaml.code, Some(2));
    yaml.prints(&["valid: false", "kind: unknown-key"]);
}

#[test]
fn files_that_cannot_be_read_exit_2() {
    for line in ["check -f", "plan -f", "attach -f", "run -f", "attach --config", "check -c"] {
        let output = director(&format!("{line} /nonexistent/director.yaml"));
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{output:?}");
        output.reports(&["error: /nonexistent/director.yaml", "No such file"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_commands_require_an_attached_director() {
    let live = Live::with("cli-none", DEFAULT_CONFIG).await;
    for line in ["status", "services", "backends", "stats", "top", "detach", "detach eth0"] {
        let name = live.instance().name();
        live.director(line).refused(1).reports(&["is not attached", name, "director attach"]);
    }
    live.assert_nothing_attached().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_prints_changes_and_applies_none() {
    let live = Live::with("cli-plan", DEFAULT_CONFIG).await;
    let plan = "plan -c director.yaml";
    live.director(plan).succeeded().prints(&["+ service web", "+   backend 10.0.0.11 weight 1"]);
    live.assert_nothing_attached().await;

    live.attach();
    live.director(plan)
        .succeeded()
        .reports(&["the running director matches the file"])
        .prints(&["nothing to change"]);
    let more = DEFAULT_CONFIG
        .replace("weight: 3", "weight: 4")
        .replace("      - {address: 10.0.0.11, weight: 1}\n", "      - {address: 10.0.0.14}\n");
    live.write(&more);
    let output = live.director(plan).succeeded().prints(&[
        "~   backend 10.0.0.13: weight 3 -> 4",
        "+   backend 10.0.0.14 weight 1",
        "-   backend 10.0.0.11 drains",
        "~ service web (tcp 192.0.2.10:80): ring over 3 backends",
    ]);
    let again = live.director(plan).succeeded();
    assert_eq!(again.stdout, output.stdout, "nothing changed meanwhile");
    let backends = live.json("backends web");
    assert_eq!(backends[2]["weight"], 3, "{backends}");
    live.write(&DEFAULT_CONFIG.replace("name: eth0", "name: eth7"));
    live.director(plan).refused(1).reports(&["interface eth7 does not exist"]);
    live.detach();
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_commands_print_tables_json_and_yaml() {
    let live = Live::new("cli-look").await;
    live.attach();
    for vip in VIPS {
        live.spread(vip, 30);
    }

    live.director("status").succeeded().prints(&[
        "attached   eth0 (native, up)\n",
        "daemon     not running",
        "services   2, backends 6\n",
        "flows      room for 1048576, ",
        " established\n",
        " forwarded, 0 answered, ",
        " 0 dropped\n",
    ]);
    let status = live.json("status");
    assert_eq!(
        fields(&status),
        [
            "backends",
            "daemon",
            "dropped",
            "established",
            "flow_capacity",
            "forwarded",
            "instance",
            "interfaces",
            "passed",
            "replied",
            "running",
            "services",
            "troubles"
        ]
    );
    assert_eq!(fields(&status["interfaces"][0]), ["mode", "name", "state"]);
    assert_eq!(status["instance"], live.instance().name());
    live.director("status --output yaml").succeeded().prints(&["daemon: false", "- name: eth0"]);

    let traffic = ["bytes", "flows", "packets"];
    let table = live.director("services").succeeded();
    let heading = table.stdout.lines().next().expect("a heading");
    let columns = "SERVICE ADDRESS STATE UP CONNS PACKETS BYTES DROPPED";
    assert_eq!(heading.split_whitespace().collect::<Vec<_>>().join(" "), columns);
    assert!(table.stdout.lines().all(|line| line.len() <= 80), "{table:?}");
    table.prints(&["web      tcp 192.0.2.10:80", "web-v6   tcp [2001:db8::10]:80", "3/3"]);
    live.director("services --wide").succeeded().prints(&["SCHEDULER", "maglev"]);
    let services = live.json("services");
    let mut names = ["backends", "dropped", "frontend", "name", "scheduler", "untracked"].to_vec();
    names.extend(["dropped_rate", "established", "rate", "status"]);
    // Former names, for one version.
    names.extend(["condition", "unrecorded"]);
    names.extend(traffic);
    names.sort_unstable();
    assert_eq!(fields(&services[0]), names);
    assert_eq!((&services[0]["name"], &services[0]["flows"]), (&"web".into(), &30.into()));
    live.director("services --output yaml").succeeded().prints(&["- name: web\n", "flows: 30"]);

    let table = live.director("backends").succeeded();
    table.prints(&["10.0.0.11", "2001:db8:1::13", "16.7", "active"]);
    let wide = live.director("backends --wide").succeeded();
    wide.prints(&["tunnel", "direct", "02:00:00:00:00:02"]);
    let backends = live.json("backends");
    assert_eq!(backends.as_array().map(Vec::len), Some(6));
    let mut names =
        ["address", "drain_left_s", "forward", "frontend", "next_hop", "service"].to_vec();
    names.extend(["share", "state", "weight"]);
    names.extend(["established", "is_sorry", "rate", "status"]);
    // The former name, for one version.
    names.push("condition");
    names.extend(traffic);
    names.sort_unstable();
    assert_eq!(fields(&backends[0]), names);
    assert_eq!(backends[0]["next_hop"], "02:00:00:00:00:02");
    let web = live.json("backends web");
    assert_eq!(web.as_array().map(Vec::len), Some(3), "{web}");
    let flows: u64 = (0..3).map(|at| web[at]["flows"].as_u64().expect("a number")).sum();
    assert_eq!(flows, 30);
    live.director("backends web --output yaml").succeeded().prints(&["address: \"10.0.0.11\""]);
    live.director("backends wbe").refused(1).reports(&["there is no service wbe", "web, web-v6"]);

    let table = live.director("stats").succeeded();
    table.prints(&["VERDICT", "REASON", "PACKETS", "tx ", "-> 10.0.0.12", "tcp 192.0.2.10:80"]);
    let stats = live.json("stats");
    assert_eq!(fields(&stats), ["drop", "pass", "redirect", "reply", "services", "tx"]);
    assert_eq!(
        fields(&stats["drop"]),
        [
            "below-minimum-mtu",
            "fragment",
            "hop-limit",
            "martian-source",
            "no-backend",
            "no-headroom",
            "no-interface",
            "no-neighbour",
            "no-route",
            "too-big"
        ]
    );
    let packets: u64 = (0..2).map(|at| stats["services"][at]["packets"].as_u64().expect("n")).sum();
    assert_eq!(stats["tx"], packets, "{stats}");
    live.director("stats --output yaml").succeeded().prints(&["no-neighbour: 0"]);
    live.detach();
}
