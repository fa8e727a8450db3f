//! The daemon's API and the commands that use it: planning, applying, rollback, detaching, and
//! invalid requests.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener},
    os::unix::{fs::PermissionsExt as _, net::UnixStream, process::CommandExt as _},
    time::{Duration, Instant},
};

use director_tests::live::{Live, TIMEOUT, VIPS, command, finish, wait_until};
use director_userspace::{serve::api, setup::lab::DEFAULT_CONFIG};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(1);
/// The daemon checks its sockets every five seconds.
const REPAIRED: Duration = Duration::from_secs(10);

/// Sends bytes to the API and returns what is received until it closes.
fn send(live: &Live, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(api::socket_of(live.instance())).expect("listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    // The daemon may close before everything is sent.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// The same, and closes this side before the answer: a client that half-closes is answered.
fn send_and_close(live: &Live, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(api::socket_of(live.instance())).expect("listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Every refusal is JSON with a kind and an error.
#[track_caller]
fn is_problem(what: &str, answer: &str) {
    let (_, body) = answer.split_once("\r\n\r\n").expect("an answer");
    let problem: serde_json::Value = serde_json::from_str(body).expect(what);
    assert!(problem["kind"].is_string() && problem["error"].is_string(), "{what}: {answer}");
}

fn post(live: &Live, path: &str, content: &str, body: &str) -> String {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {content}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    send(live, format!("{head}{body}").as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_is_planned_applied_and_rolled_back() {
    let live = Live::new("apply").await;
    let daemon = live.run();
    let new = live.directory().join("new.yaml");
    fs::write(&new, DEFAULT_CONFIG.replace("weight: 3", "weight: 30")).expect("written");
    let planned = live.json("plan -f new.yaml");
    assert_eq!((&planned["changes"], &planned["revision"]), (&true.into(), &1.into()), "{planned}");
    let steps = planned["steps"].to_string();
    assert!(steps.contains("backend 10.0.0.13: weight 3 -> 30"), "{steps}");
    live.director("apply -f new.yaml --dry-run").succeeded().prints(&["nothing was changed"]);
    assert_eq!(live.json("backends web")[2]["weight"], 3);

    let applied = live.director("apply -f new.yaml --if-revision 1").succeeded();
    applied.prints(&["weight 3 -> 30", "in effect as revision 2"]);
    assert_eq!(live.json("backends web")[2]["weight"], 30);
    let file = fs::read_to_string(live.file()).expect("there");
    assert_eq!(file, fs::read_to_string(&new).expect("there"), "the daemon's file is updated");
    // A change based on an older revision is refused.
    let late = live.director("apply -f new.yaml --if-revision 1").refused(1);
    late.reports(&["another configuration came into effect meanwhile: revision 2"]);

    let bad = DEFAULT_CONFIG.replacen("weight: 3", "weight: 70000", 1);
    fs::write(&new, &bad).expect("written");
    live.director("apply -f new.yaml")
        .refused(2)
        .reports(&["70000 is more than 65535", "new.yaml:15:"]);
    fs::write(&new, "services: []\n").expect("written");
    live.director("apply -f new.yaml").refused(1).reports(&["--force applies it anyway"]);
    assert_eq!(live.spread(VIPS[0], 20).values().sum::<usize>(), 20);

    live.director("rollback --dry-run").succeeded().prints(&["weight 30 -> 3"]);
    live.director("rollback").succeeded().prints(&["in effect as revision 3"]);
    assert_eq!(live.json("backends web")[2]["weight"], 3);
    assert_eq!(fs::read_to_string(live.file()).expect("there"), DEFAULT_CONFIG);
    let list = live.json("rollback --list");
    assert_eq!(list["revisions"].as_array().expect("a list").len(), 3, "{list}");
    live.director("rollback --to 99").refused(1).reports(&["there is no revision 99"]);
    // The history outlives the daemon.
    daemon.end(Signal::SIGKILL);
    let daemon = live.run();
    live.director("rollback --to 2").succeeded().prints(&["weight 3 -> 30"]);
    daemon.end(Signal::SIGTERM);
    live.director("apply -f new.yaml").refused(1).reports(&["is `director run` running?"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_was_detached_stays_detached_until_attached() {
    let live = Live::new("off").await;
    let daemon = live.run();
    live.director("detach").succeeded().prints(&["detached from eth0"]);
    live.assert_nothing_attached().await;
    assert!(live.get(VIPS[0]).is_err());
    // Neither a changed file nor a restart brings it back.
    live.write(&DEFAULT_CONFIG.replace("weight: 3", "weight: 4"));
    daemon.wait_for("configuration applied", SOON);
    daemon.end(Signal::SIGTERM);
    let daemon = live.run();
    daemon.wait_for("`director attach` resumes forwarding", SOON);
    live.assert_nothing_attached().await;
    live.director("attach -c director.yaml").succeeded();
    assert_eq!(live.spread(VIPS[0], 20).values().sum::<usize>(), 20);
    assert_eq!(live.json("backends web")[2]["weight"], 4);
    daemon.end(Signal::SIGTERM);
    live.detach();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_describes_itself_and_is_for_its_group_only() {
    let live = Live::new("describes").await;
    let daemon = live.run();
    let answer = send(&live, b"GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let document: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(document, serde_json::from_str::<serde_json::Value>(&api::openapi()).expect("JSON"));
    let metadata = fs::metadata(api::socket_of(live.instance())).expect("there");
    let mode = metadata.permissions().mode() & 0o777;
    assert!(mode == 0o600 || mode == 0o660, "{mode:o}");
    // Every path that it describes answers, and not with 404.
    for (path, methods) in document["paths"].as_object().expect("paths") {
        if methods.get("get").is_some() {
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
            let answer = send(&live, request.as_bytes());
            assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        }
    }
    // The former path of the status, for one version: it answers alike, and the log warns once.
    let get =
        |path: &str| send(&live, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
    let (now, former) = (get("/v1/status"), get("/v1/conditions"));
    let body = |answer: &str| answer.split_once("\r\n\r\n").expect("an answer").1.to_owned();
    assert_eq!(body(&now), body(&former));
    assert!(
        former.contains("\r\ndeprecation: true\r\n") && !now.contains("deprecation"),
        "{former}"
    );
    get("/v1/conditions");
    assert_eq!(daemon.log().matches("/v1/conditions").count(), 1, "{}", daemon.log());
    daemon.end(Signal::SIGTERM);
    assert!(!api::socket_of(live.instance()).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_group_may_only_operate() {
    let live = Live::new("group").await;
    let yaml = format!("api: {{group: nogroup}}\n{DEFAULT_CONFIG}");
    live.write(&yaml);
    let daemon = live.run();
    let socket = fs::metadata(api::socket_of(live.instance())).expect("there");
    assert_eq!(socket.permissions().mode() & 0o777, 0o660);
    let nogroup = nix::unistd::Group::from_name("nogroup").expect("read").expect("Debian has it");
    let run_as = |group: u32, words: &[&str]| {
        let mut director = command(words);
        director.args(["--instance", live.instance().name()]);
        finish({
            director.current_dir(live.directory()).uid(65_534).gid(group);
            director
        })
    };
    let [member, outsider] = [nogroup.gid.as_raw(), 1];
    run_as(member, &["weight", "web", "10.0.0.11", "2"]).succeeded();
    run_as(member, &["drain", "web", "10.0.0.12"]).succeeded();
    run_as(outsider, &["undrain", "web", "10.0.0.12"]).refused(1).reports(&["permission denied"]);
    let new = live.directory().join("new.yaml");
    let exec = "defaults: {health: {type: exec, command: [/bin/true]}}\nservices:";
    for (text, why) in [
        (yaml.replace("services:", exec), "it would run /bin/true as nobody for a check"),
        (yaml.replace("nogroup", "daemon"), "its `api` (socket, group, metrics, page) differs"),
    ] {
        fs::write(&new, text).expect("written");
        run_as(member, &["apply", "-f", "new.yaml"]).refused(1).reports(&[why, "from root only"]);
    }
    // The admin override of a removed backend can be cleared, also by the group.
    live.write(&yaml.replace("      - {address: 10.0.0.12, weight: 2}\n", ""));
    daemon.wait_for("configuration applied", SOON);
    live.director("drain --all 10.0.0.12")
        .refused(1)
        .reports(&["10.0.0.12 is not a backend of any service"]);
    run_as(member, &["undrain", "--all", "10.0.0.12"]).succeeded();
    live.director("undrain --all 10.0.0.12").refused(1);
    live.write(&yaml);
    wait_until("it is back, and does not drain", TIMEOUT, || {
        live.spread(VIPS[0], 60).contains_key("b2")
    });
    daemon.end(Signal::SIGTERM);
}

/// Lost sockets of the API and the pages are restored; files of other programs are not modified.
#[tokio::test(flavor = "multi_thread")]
async fn lost_sockets_are_restored() {
    let live = Live::new("lostsocket").await;
    let precious = live.directory().join("precious");
    fs::write(&precious, "keep").expect("written");
    let taken = live.node("director").run(|| TcpListener::bind("127.0.0.1:9101"));
    let taken = taken.expect("enters").expect("listens");
    let with = |api: &str| format!("api: {{{api}metrics: '127.0.0.1:9101'}}\n{DEFAULT_CONFIG}");
    live.write(&with(&format!("socket: {}, ", precious.display())));
    let daemon = live.run();
    daemon.wait_for("the file there is not a socket", SOON);
    daemon.wait_for("metrics cannot be served at 127.0.0.1:9101", SOON);
    assert_eq!(fs::read_to_string(&precious).expect("there"), "keep");

    live.write(&with(""));
    daemon.wait_for("configuration applied", SOON);
    let warnings = live.json("status")["running"]["warnings"].to_string();
    assert!(warnings.contains("metrics cannot be served"), "{warnings}");
    drop(taken);
    daemon.wait_for("metrics: http://127.0.0.1:9101/", REPAIRED);
    fs::remove_file(api::socket_of(live.instance())).expect("removed");
    wait_until("the socket is back", REPAIRED, || api::socket_of(live.instance()).exists());
    live.director("plan -f director.yaml").succeeded();
    daemon.end(Signal::SIGTERM);
    assert_eq!(fs::read_to_string(&precious).expect("there"), "keep");
}

/// A client that closes its side is answered; the request of one that has gone is not carried out.
#[tokio::test(flavor = "multi_thread")]
async fn half_closed_clients_are_answered_and_gone_ones_forgotten() {
    let live = Live::new("half").await;
    let daemon = live.run();
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    for path in ["/v1/status", "/v1/config", "/v1/history"] {
        let answer = send_and_close(&live, get(path).as_bytes());
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
    let yaml = DEFAULT_CONFIG.replace("weight: 3", "weight: 30");
    let apply = |yaml: &str| {
        let length = yaml.len();
        let head =
            format!("POST /v1/apply HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
        head + yaml
    };
    let answer = send_and_close(&live, apply(&yaml).as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(live.json("backends web")[2]["weight"], 30);
    // Stopped, it cannot begin; then the client goes.
    daemon.signal(Signal::SIGSTOP);
    let mut gone = UnixStream::connect(api::socket_of(live.instance())).expect("listens");
    gone.write_all(apply(&DEFAULT_CONFIG.replace("weight: 3", "weight: 31")).as_bytes())
        .expect("sent");
    drop(gone);
    daemon.signal(Signal::SIGCONT);
    assert_eq!(live.json("plan -f director.yaml")["changes"], false);
    assert_eq!(live.json("backends web")[2]["weight"], 30);
    daemon.end(Signal::SIGTERM);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_requests_are_refused_without_harm() {
    let live = Live::new("nonsense").await;
    let daemon = live.run();
    // Silent clients that occupy connections.
    let silent: Vec<_> = (0..100)
        .map(|_| UnixStream::connect(api::socket_of(live.instance())).expect("listens"))
        .collect();
    let mut half = UnixStream::connect(api::socket_of(live.instance())).expect("listens");
    half.write_all(b"POST /v1/apply HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nserv")
        .expect("sent");
    let began = Instant::now();
    assert_eq!(live.json("plan -f director.yaml")["changes"], false);
    assert!(began.elapsed() < TIMEOUT, "{:?}", began.elapsed());
    let rows = [
        ("/v1/drain", "application/json", "{", "400"),
        ("/v1/drain", "application/json", "{\"backend\": 7}", "422"),
        ("/v1/drain", "application/json", "{\"backend\": \"10.0.0.11\", \"x\": 1}", "422"),
        ("/v1/drain", "text/plain", "{}", "415"),
        (
            "/v1/weight",
            "application/json",
            "{\"backend\": \"10.0.0.11\", \"weight\": 70000}",
            "422",
        ),
        ("/v1/apply", "application/yaml", "", "422"),
        ("/v1/apply", "application/yaml", "\u{0}\u{1}", "422"),
        ("/v1/apply?dry_run=maybe", "application/yaml", "services: []", "400"),
        ("/v1/apply?surprise=1", "application/yaml", "services: []", "400"),
        ("/v2/apply", "application/yaml", "services: []", "404"),
        ("/v1/status", "application/json", "{}", "405"),
    ];
    for (path, content, body, status) in rows {
        let answer = post(&live, path, content, body);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path} {body}: {answer}");
        is_problem(path, &answer);
    }
    let deep = format!("{{\"backend\": {}", "[".repeat(30_000));
    assert!(post(&live, "/v1/drain", "application/json", &deep).starts_with("HTTP/1.1 422"));
    let long = format!("{{\"backend\": \"{}\"}}", "a".repeat(100_000));
    assert!(post(&live, "/v1/drain", "application/json", &long).starts_with("HTTP/1.1 413"));
    let huge = "POST /v1/apply HTTP/1.1\r\nHost: x\r\nContent-Type: application/yaml\r\n\
                Content-Length: 99999999999\r\n\r\nservices:";
    assert!(send(&live, huge.as_bytes()).starts_with("HTTP/1.1 413"));
    // Bodies that are malformed or end early, as opposed to ones that are too long.
    let head = |path: &str, rest: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{rest}\r\n\r\n"
        )
    };
    let chunked = "Transfer-Encoding: chunked";
    for (what, request, status) in [
        ("a chunk without a length", head("/v1/drain", chunked) + "x\r\n{}\r\n0\r\n\r\n", "400"),
        ("a chunk longer than it says", head("/v1/drain", chunked) + "1\r\n{}\r\n0\r\n\r\n", "400"),
        ("a length beyond 64 bits", head("/v1/apply", chunked) + &"f".repeat(40), "400"),
        ("the last chunk is missing", head("/v1/apply", chunked) + "2\r\n{}\r\n", "400"),
        ("a short body", head("/v1/drain", "Content-Length: 100") + "{}", "400"),
        ("a short configuration", head("/v1/plan", "Content-Length: 100") + "services", "400"),
        ("no body", head("/v1/plan", "Content-Length: 100"), "400"),
        (
            "chunks that are too long",
            head("/v1/drain", chunked) + &format!("{:x}\r\n{}", 70_000, "a".repeat(70_000)),
            "413",
        ),
    ] {
        let answer = send_and_close(&live, request.as_bytes());
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{what}: {answer}");
        is_problem(what, &answer);
    }
    let not_text = [head("/v1/plan", "Content-Length: 2").as_bytes(), &[0xff, 0xfe]].concat();
    let answer = send_and_close(&live, &not_text);
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    is_problem("not UTF-8", &answer);
    let mut random = fastrand::Rng::with_seed(4);
    for _ in 0..50 {
        let bytes: Vec<u8> = (0..random.usize(1..2000)).map(|_| random.u8(..)).collect();
        send(&live, &bytes);
    }
    drop((silent, half));
    assert_eq!(live.spread(VIPS[0], 20).values().sum::<usize>(), 20);
    assert_eq!(live.json("plan -f director.yaml")["changes"], false);
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    daemon.end(Signal::SIGTERM);
}
