//! Invalid dumps and configurations: an error with a line, or a valid configuration, and never a
//! panic.

use std::{fs, path::PathBuf};

use director_userspace::{
    migrate::import::{self, Effect, ImportErrors, Imported, Names, Options},
    policy::config,
};
use proptest::prelude::*;

use super::fixture::Fixture;

fn ipvsadm(bytes: &[u8]) -> Result<Imported, ImportErrors> {
    import::ipvsadm("source", bytes, &Names::default(), &Options::default())
}

fn keepalived(bytes: &[u8]) -> Result<Imported, ImportErrors> {
    import::keepalived("source", bytes, &Options::default())
}

/// Text, the faulty line, and words of the error.
type Row = (&'static str, u32, &'static str);

#[track_caller]
fn refused(outcome: Result<Imported, ImportErrors>, row: Row) {
    let (text, line, words) = row;
    let errors = match outcome {
        Err(errors) => errors.errors,
        Ok(imported) => panic!("{text:?}: accepted: {}", imported.yaml),
    };
    let found = errors.iter().any(|e| e.line == Some(line) && e.message.contains(words));
    assert!(found, "{text:?}: {errors:?}");
}

#[test]
fn malformed_rules_are_refused_with_their_line() {
    const ROWS: [Row; 33] = [
        ("hello world", 1, "no rule"),
        ("\n\nVIP=192.0.2.1\n", 3, "no rule"),
        ("-A -t $VIP:80 -s rr", 1, "no rule"),
        ("-A -t 192.0.2.1:80; reboot", 1, "no rule"),
        ("-A", 1, "no service"),
        ("-t 192.0.2.1:80", 1, "without a command"),
        ("-A -t 192.0.2.1:80 -s", 1, "needs a value"),
        ("-A -t 192.0.2.1:80 --frobnicate", 1, "--frobnicate"),
        ("-A -t 192.0.2.1:80 -q", 1, "-q"),
        ("-A -t 192.0.2.1:99999", 1, "no port"),
        ("-A -t 192.0.2.1:-1", 1, "no port"),
        ("-A -t 300.0.2.1:80", 1, "no IP address"),
        ("-A -t www.example.net:80", 1, "/etc/hosts"),
        ("-A -t 192.0.2.1:http", 1, "/etc/services"),
        ("-A -t [2001:db8::1:80", 1, "closing ]"),
        ("-A -t [2001:db8::1]80", 1, "after a colon"),
        ("-A -t 192.0.2.1:80 -u 192.0.2.1:80", 1, "two services"),
        ("-A -t 192.0.2.1:80 -t 192.0.2.2:80", 1, "twice"),
        ("-A -D -t 192.0.2.1:80", 1, "second command"),
        ("-A -f 0", 1, "firewall mark"),
        ("-A -f x", 1, "firewall mark"),
        ("-a -t 192.0.2.1:80 -r 10.0.0.1", 1, "no service"),
        ("-A -t 192.0.2.1:80\n-a -t 192.0.2.1:80", 2, "-r is missing"),
        ("-A -t 192.0.2.1:80\n-a -t 192.0.2.1:80 -r 10.0.0.1 -g -i", 2, "more than one"),
        ("-A -t 192.0.2.1:80\n-a -t 192.0.2.1:80 -r 10.0.0.1 -w 2147483648", 2, "number"),
        ("-A -t 192.0.2.1:80\n-a -t 192.0.2.1:80 -r 10.0.0.1 -w -3", 2, "-3"),
        ("-A -t 192.0.2.1:80\n-a -t 192.0.2.1:80 -r 10.0.0.1 -i --tun-type l2tp", 2, "l2tp"),
        ("-A -t 192.0.2.1:80\n-A -t 192.0.2.1:80", 2, "already exists"),
        ("-A -t 192.0.2.1:80\n-d -t 192.0.2.1:80 -r 10.0.0.1", 2, "no server"),
        ("-D -t 192.0.2.1:80", 1, "no service"),
        ("-A -t 192.0.2.1:80 -p soon", 1, "seconds"),
        ("-A -t 192.0.2.1:80 -p 300 -M 255.x", 1, "netmask"),
        ("--set 1 2", 1, "three numbers"),
    ];
    for row in ROWS {
        refused(ipvsadm(row.0.as_bytes()), row);
    }
}

#[test]
fn malformed_listings_are_refused_with_their_line() {
    const ROWS: [Row; 11] = [
        ("IPVS connection entries\npro expire state\n", 1, "connections"),
        ("Prot LocalAddress:Port               Conns   InPkts\n", 1, "Conns"),
        ("Prot LocalAddress:Port Uthreshold Lthreshold\n", 1, "Uthreshold"),
        ("TCP  192.0.2.1:80 wlc\n  -> 10.0.0.1:80 Route\n", 2, "two numbers"),
        ("TCP  192.0.2.1:80 wlc\n  -> 10.0.0.1:80 Teleport 1 0 0\n", 2, "Teleport"),
        ("TCP  192.0.2.1:80 wlc\n  -> 10.0.0.1:80 Route heavy 0 0\n", 2, "weight"),
        ("TCP  192.0.2.1:80\n", 1, "no scheduler"),
        ("TCP  192.0.2.1:80 wlc persistent\n", 1, "without a value"),
        ("TCP  192.0.2.1:80 wlc purple\n", 1, "purple"),
        ("TCP  192.0.2.1:80 wlc\nTCP  192.0.2.1:80 wlc\n", 2, "already exists"),
        ("  -> 10.0.0.1:80 Route 1 0 0\n", 1, "before the first service"),
    ];
    for row in ROWS {
        refused(ipvsadm(row.0.as_bytes()), row);
    }
}

#[test]
fn malformed_configurations_are_refused_with_their_line() {
    const ROWS: [Row; 21] = [
        ("global_defs {\n", 1, "global_defs { has no }"),
        ("a {\n b {\n }\n", 1, "a { has no }"),
        ("}\n", 1, "too many"),
        ("{\n}\n", 1, "without a keyword"),
        ("a b\n\"open\nend\n", 2, "closing"),
        ("x\n~SEQ(N, 1, 3) foo\n", 2, "~SEQ"),
        ("include other.conf\n", 1, "include"),
        ("virtual_server 192.0.2.1 http {\n}\n", 1, "no port"),
        ("virtual_server 192.0.2 80 {\n}\n", 1, "no IP address"),
        ("virtual_server {\n}\n", 1, "no IP address"),
        ("virtual_server group nobody {\n}\n", 1, "no virtual_server_group"),
        ("virtual_server 192.0.2.1 80 {\n delay_loop fast\n}\n", 2, "seconds"),
        ("virtual_server 192.0.2.1 80 {\n lvs_method MAGIC\n}\n", 2, "forwarding"),
        ("virtual_server 192.0.2.1 80 {\n protocol ICMP\n}\n", 2, "protocol"),
        ("virtual_server 192.0.2.1 80 {\n quorum -1\n}\n", 2, "quorum"),
        ("virtual_server 192.0.2.1 80 {\n real_server x 80 {\n}\n}\n", 2, "no IP address"),
        ("virtual_server 192.0.2.1 80 {\n real_server 10.0.0.1 80 {\n weight\n}\n}\n", 3, "weight"),
        ("virtual_server_group g {\n 192.0.2.9-3 80\n}\n", 2, "range"),
        ("virtual_server_group g {\n 192.0.2.9-300 80\n}\n", 2, "range"),
        ("global_defs {\n lvs_timeouts tcp soon\n}\n", 2, "timeout"),
        ("$A=$A\nuses $A\n", 2, "definitions"),
    ];
    for row in ROWS {
        refused(keepalived(row.0.as_bytes()), row);
    }
}

#[test]
fn unterminated_blocks_are_refused() {
    let text = "a {\n".repeat(100_000);
    refused(keepalived(text.as_bytes()), ("100,000 blocks", 33, "too deep"));
    let doubling: String =
        (0..40).map(|n| format!("$V{}=$V{n}$V{n}\n", n + 1)).chain(["x $V40\n".into()]).collect();
    refused(keepalived(format!("$V0=xx\n{doubling}").as_bytes()), ("doubling", 42, "definitions"));
}

#[test]
fn input_that_is_not_text_is_refused() {
    for import in [ipvsadm, keepalived] {
        refused(import(b"# fine\n\xff\xfe\n"), ("UTF-16", 2, "UTF-8"));
        refused(import(b"# fine\n\n\0\n"), ("NUL", 3, "NUL"));
        let long = [&b"# fine\n"[..], &vec![b'x'; 200_000]].concat();
        refused(import(&long), ("a long line", 2, "KiB"));
        let huge = [&b"\n\n"[..], &vec![b'-'; 100_000_000]].concat();
        refused(import(&huge), ("100 MB in a line", 3, "MiB"));
        let many = b"# short\n".repeat(9 << 20);
        let errors = import(&many).expect_err("too big");
        assert!(errors.to_string().contains("longer than 64 MiB"), "{errors}");
    }
}

/// A temporary directory, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("import-{}-{test}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("writable");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn includes_that_loop_multiply_or_are_missing_are_refused() {
    let scratch = Scratch::new("includes");
    let options = Options::default();
    let refused = |name: &str, words: &str| {
        let errors = import::keepalived_file(&scratch.0.join(name), &options).expect_err(words);
        assert!(errors.to_string().contains(words), "{name}: {errors}");
        assert!(errors.errors[0].line.is_some(), "{errors}");
    };
    scratch.write("self.conf", "\ninclude self.conf\n");
    refused("self.conf", "includes itself");
    scratch.write("a.conf", "include b.conf\n");
    scratch.write("b.conf", "include ./a.conf\n");
    refused("a.conf", "includes itself");
    scratch.write("star.conf", "include *.conf\n");
    refused("star.conf", "itself");
    for n in 0..20 {
        scratch.write(&format!("deep{n}.inc"), &format!("include deep{}.inc\n", n + 1));
    }
    scratch.write("deep.conf", "include deep0.inc\n");
    refused("deep.conf", "within one another");
    // Each includes the next one ten times: 10^6 files.
    for n in 0..6 {
        let text = format!("include wide{}.inc\n", n + 1).repeat(10);
        scratch.write(&format!("wide{n}.inc"), &text);
    }
    scratch.write("wide6.inc", "x\n");
    scratch.write("wide.conf", "include wide0.inc\n");
    refused("wide.conf", "included files");
    fs::create_dir_all(scratch.0.join("folder")).expect("a directory");
    scratch.write("folder.conf", "include folder\n");
    refused("folder.conf", "no file");
    scratch.write("braces.conf", "include {a,b}.conf\n");
    refused("braces.conf", "braces");
    scratch.write("unterminated.conf", "include half.inc\n}\n");
    scratch.write("half.inc", "global_defs {\n");
    let half = import::keepalived_file(&scratch.0.join("unterminated.conf"), &options);
    assert!(half.is_ok(), "a block may span files: {half:?}");
    let missing = import::keepalived_file(&scratch.0.join("nowhere.conf"), &options);
    assert!(missing.expect_err("missing").to_string().contains("cannot be read"));
}

/// No text of a source escapes from its quotes or its comment.
#[test]
fn text_of_a_source_is_quoted() {
    let nasty = "\" } ]: {services: [] # \u{2028}\u{85}\t\\ \\n \u{7f} 'x' *a &b !c %d";
    let text = format!(
        "virtual_server 192.0.2.1 80 {{\n lvs_method DR\n lvs_sched '{nasty2}'\n virtualhost \
         'h'\n real_server 10.0.0.1 80 {{\n MISC_CHECK {{ misc_path '/bin/x {nasty2}' }}\n \
         }}\n}}\n",
        nasty2 = nasty.replace('\'', "").replace('\\', "/"),
    );
    let imported = keepalived(text.as_bytes()).expect("read");
    let config = config::parse("import", &imported.yaml).expect("valid").config;
    assert!(config.services.len() <= 1);
    let note = imported.report.notes.iter().find(|note| note.what == "scheduler");
    assert_eq!(note.expect("reported").effect, Effect::Changed);
}

fn never_panics(bytes: &[u8]) {
    for imported in [ipvsadm(bytes), keepalived(bytes)].into_iter().flatten() {
        if let Err(errors) = config::parse("import", &imported.yaml) {
            panic!("{errors}\n{}", imported.yaml);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_an_error_or_a_configuration(bytes: Vec<u8>) {
        never_panics(&bytes);
    }

    #[test]
    fn random_text_is_an_error_or_a_configuration(text in "[ -~\n]{0,200}") {
        never_panics(text.as_bytes());
    }

    /// Fixtures with a piece cut out, doubled, or replaced.
    #[test]
    fn damaged_sources_are_an_error_or_a_configuration(
        fixture: prop::sample::Index,
        from: prop::sample::Index,
        length in 0usize..60,
        put in prop_oneof![
            Just(Vec::new()),
            "[-{}\"'#!$@~ \n0-9a-z.:\\[\\]]{0,12}".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..4),
        ],
        twice: bool,
    ) {
        let fixtures = Fixture::all();
        let mut bytes = fs::read(fixture.get(&fixtures).path()).expect("there");
        let from = from.index(bytes.len() + 1);
        let to = (from + length).min(bytes.len());
        let piece = bytes[from..to].to_vec();
        let put = if twice { [piece.clone(), put, piece].concat() } else { put };
        bytes.splice(from..to, put);
        never_panics(&bytes);
    }

    /// Words of both formats in any order.
    #[test]
    fn shuffled_words_are_an_error_or_a_configuration(
        words in prop::collection::vec(prop::sample::select(&WORDS[..]), 0..60),
    ) {
        never_panics(words.concat().as_bytes());
    }
}

const WORDS: [&str; 48] = [
    "-A ",
    "-a ",
    "-t 192.0.2.1:80 ",
    "-u [2001:db8::1]:53 ",
    "-r 10.0.0.1:80 ",
    "-r 10.0.0.2 ",
    "-i ",
    "-g ",
    "-m ",
    "-w 3 ",
    "-s wlc ",
    "-p ",
    "\n",
    "\n",
    "\n",
    "TCP  192.0.2.1:80 rr ",
    "  -> 10.0.0.1:80 Route 1 0 0",
    "virtual_server 192.0.2.1 80 ",
    "{\n",
    "{ ",
    "}\n",
    "} ",
    "real_server 10.0.0.1 80 ",
    "real_server 10.0.0.2 80 ",
    "lvs_method DR\n",
    "lvs_method TUN\n",
    "TCP_CHECK ",
    "HTTP_GET ",
    "url ",
    "path /x\n",
    "status_code 200-299\n",
    "connect_timeout 3\n",
    "retry 2\n",
    "delay_loop 0\n",
    "delay_loop 100000\n",
    "quorum 7\n",
    "hysteresis 9\n",
    "sorry_server 10.0.0.9 80\n",
    "weight 0\n",
    "weight 4294967295\n",
    "virtual_server_group g ",
    "virtual_server group g ",
    "192.0.2.1-9 80\n",
    "fwmark 3\n",
    "$A=x\n",
    "$A ",
    "persistence_timeout 5\n",
    "MISC_CHECK ",
];
