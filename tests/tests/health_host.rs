//! Health checks that depend on this host: echo requests, programs, marks, and exhausted resources
//! of the host. Agents, too.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use director_tests::health::{HERE, check, next, once, reason, runtime, target};
use director_userspace::{
    health::{AgentMode, AgentReport, AgentTarget, Checker, Event, Events, Health, Target},
    policy::{
        config::model::{Agent, AgentSource, ExecProbe, HealthCheck, Percent, Probe, Start},
        health_policy::HealthState,
    },
};
use tokio::runtime::Runtime;

fn shell(script: &str) -> Probe {
    exec(&["/bin/sh", "-c", script], "nobody")
}

fn exec(command: &[&str], user: &str) -> Probe {
    let command = command.iter().map(|&word| word.to_owned()).collect();
    Probe::Exec(ExecProbe { command, user: user.into() })
}

fn address() -> SocketAddr {
    "192.0.2.7:80".parse().unwrap()
}

/// The reason why a probe could not be made; the state of the backend is unchanged.
#[track_caller]
fn not_made(runtime: &Runtime, probe: &Probe) -> String {
    for (start, state) in [(Start::Up, HealthState::Up), (Start::Down, HealthState::Down)] {
        let check = HealthCheck { start, ..check(probe.clone()) };
        let health = runtime.block_on(once(&target(check, address())));
        assert_eq!(health.state, state, "{health:?}");
        assert_eq!((health.probes, health.failures, health.not_made), (0, 0, 1), "{health:?}");
        if start == Start::Down {
            return health.reason;
        }
    }
    unreachable!("the loop returns");
}

#[test]
fn exec_probes_report_status_and_output() {
    let runtime = runtime();
    for (probe, wanted) in [
        (shell("exit 0"), ""),
        (shell("test $DIRECTOR_ADDRESS = 192.0.2.7 && test $DIRECTOR_PORT = 80"), ""),
        (shell("test -z \"$HOME$USER$CARGO\" && test $(id -un) = nobody"), ""),
        (shell("read line && exit 1; exit 0"), ""),
        (shell("exit 2"), "status 2"),
        (shell("echo all is lost; exit 1"), "status 1: all is lost"),
        (
            shell("echo first; printf 'the \\033[31m disk\\n' >&2; exit 1"),
            "status 1: the [31m disk",
        ),
        (shell("kill -TERM $$"), "ended by signal 15"),
        (shell("sleep 60"), "did not end within 500ms, and was killed"),
        (shell("sleep 60 & sleep 60"), "did not end within 500ms, and was killed"),
        (shell("yes"), "did not end within 500ms, and was killed"),
    ] {
        assert_eq!(reason(&runtime, probe.clone(), address()), wanted, "{probe:?}");
    }
    for (probe, wanted) in [
        (
            exec(&["/nowhere/at-all"], "nobody"),
            "cannot run /nowhere/at-all as nobody: No such file",
        ),
        (exec(&["/etc/passwd"], "nobody"), "ermission denied"),
        (exec(&["sh"], "nobody"), "not an absolute path"),
        (exec(&["/bin/true"], "root"), "\"root\" is root"),
        (exec(&["/bin/true"], "no-such-user"), "no user \"no-such-user\""),
    ] {
        let output = not_made(&runtime, &probe);
        assert!(
            output.starts_with("not probed: ") && output.contains(wanted),
            "{probe:?}: {output}"
        );
    }
}

/// Whether a process exists and is no zombie.
fn is_alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
        .is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn programs_end_with_their_checker() {
    let file = format!("/tmp/director-health-{}", std::process::id());
    let (mut checker, _events) = Checker::new().unwrap();
    let slow = HealthCheck {
        timeout: Duration::from_secs(20),
        interval: Duration::from_secs(20),
        ..check(shell(&format!("sleep 60 & echo $! > {file}.new; mv {file}.new {file}; wait")))
    };
    checker.set([target(slow, address())], [], &|_| None);
    let began = Instant::now();
    let pid = loop {
        match fs::read_to_string(&file) {
            Ok(pid) => break pid,
            Err(_) => assert!(began.elapsed() < Duration::from_secs(5), "it did not start"),
        }
        thread::sleep(Duration::from_millis(10));
    };
    fs::remove_file(&file).unwrap();
    assert!(is_alive(&pid));
    drop(checker);
    let ended = Instant::now();
    while is_alive(&pid) {
        assert!(ended.elapsed() < Duration::from_secs(2), "{pid} is alive");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn an_echo_request_is_answered_or_not() {
    let runtime = runtime();
    let icmp = |address: &str| {
        let to = SocketAddr::new(address.parse().unwrap(), 0);
        reason(&runtime, Probe::Icmp, to)
    };
    assert_eq!(icmp("127.0.0.1"), "");
    assert_eq!(icmp("127.200.1.2"), "");
    assert_eq!(icmp("::1"), "");
    // A documentation address: no host answers, and a router may send an ICMP error.
    let output = icmp("2001:db8::1");
    assert!(!output.is_empty());
}

#[test]
fn many_echo_requests_share_a_socket() {
    let runtime = runtime();
    let (mut checker, mut events) = Checker::new().unwrap();
    let before = sockets();
    let targets = (1..=200u8).map(|last| {
        let mark = (last % 2 == 0).then_some(u32::from(last));
        Target { mark, ..target(check(Probe::Icmp), SocketAddr::new([127, 1, 1, last].into(), 0)) }
    });
    checker.set(targets, [], &|_| None);
    for _ in 0..200 {
        let (target, health) = runtime.block_on(next(&mut events));
        assert_eq!((health.state, health.not_made), (HealthState::Up, 0), "{target}: {health:?}");
    }
    assert!(checker.is_settled());
    assert_eq!(sockets() - before, 1);
}

/// Raw sockets of this process.
fn sockets() -> usize {
    let mine: Vec<_> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter_map(|link| {
            Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    let raw = fs::read_to_string("/proc/self/net/raw").unwrap();
    raw.lines()
        .filter(|line| mine.iter().any(|inode| line.split_whitespace().nth(9) == Some(inode)))
        .count()
}

#[test]
fn every_kind_of_probe_can_be_marked() {
    let runtime = runtime();
    let listener = TcpListener::bind((HERE, 0)).unwrap();
    let to = listener.local_addr().unwrap();
    let udp = Probe::Udp(director_userspace::policy::config::model::UdpProbe {
        send: String::new(),
        expect: None,
    });
    for probe in [Probe::Tcp, Probe::Icmp, udp] {
        let marked = Target { mark: Some(0x00d1_0001), ..target(check(probe), to) };
        let health = runtime.block_on(once(&marked));
        assert_eq!(health.not_made, 0, "{health:?}");
    }
}

#[test]
fn exhausted_host_resources_are_no_probe_failure() {
    // Runs in a separate process: it uses all file descriptors.
    let name = "exhausted_host_resources_are_no_probe_failure";
    if std::env::var_os("HEALTH_ALONE").is_none() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env("HEALTH_ALONE", "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let runtime = runtime();
    let listener = TcpListener::bind((HERE, 0)).unwrap();
    let (mut checker, mut events) = Checker::new().unwrap();
    let often = HealthCheck { interval: Duration::from_millis(200), ..check(Probe::Tcp) };
    let good = target(often, listener.local_addr().unwrap());
    checker.set([good.clone()], [], &|_| None);
    assert_eq!(runtime.block_on(next(&mut events)).1.state, HealthState::Up);
    // No file descriptors are available from here on.
    let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
    nix::sys::resource::setrlimit(limit, 3, 1 << 10).unwrap();
    let health = wait_for(&checker, &good, |health| health.not_made > 2);
    assert_eq!((health.state, health.failures), (HealthState::Up, 0), "{health:?}");
    assert!(health.reason.contains("out of file descriptors"), "{health:?}");
    nix::sys::resource::setrlimit(limit, 1 << 10, 1 << 10).unwrap();
    let probes = health.probes;
    let health = wait_for(&checker, &good, |health| health.probes > probes);
    assert_eq!((health.state, health.reason.as_str()), (HealthState::Up, ""), "{health:?}");
    assert!(events.try_recv().is_none(), "nothing changed");
}

/// Waits up to 10 s until the health of a target is as wanted, and returns it.
fn wait_for(checker: &Checker, target: &Target, wanted: impl Fn(&Health) -> bool) -> Health {
    let began = Instant::now();
    loop {
        let health = checker.health(target).expect("it is a target");
        if wanted(&health) {
            return health;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{health:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn agent(source: AgentSource, smoothing: u8, min: u8) -> Agent {
    Agent {
        source,
        interval: Duration::from_millis(200),
        timeout: Duration::from_millis(200),
        min: Percent(min),
        smoothing: Percent(smoothing),
    }
}

fn agent_target(agent: Agent, to: SocketAddr) -> AgentTarget {
    AgentTarget { agent: Arc::new(agent), address: to.ip(), port: Some(to.port()) }
}

async fn agent_event(events: &mut Events) -> AgentReport {
    let event = tokio::time::timeout(Duration::from_secs(5), events.recv()).await;
    match event.expect("an event within 5 s").expect("the checker runs") {
        Event::Agent { report, .. } => report,
        Event::Check { target, .. } => panic!("a check event of {target}"),
    }
}

/// An agent that sends these texts in order, one per connection, and then repeats the last.
fn agent_sending(texts: &'static [&'static str]) -> SocketAddr {
    let listener = TcpListener::bind((HERE, 0)).unwrap();
    let to = listener.local_addr().unwrap();
    let sent = AtomicUsize::new(0);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let number = sent.fetch_add(1, Ordering::Relaxed).min(texts.len() - 1);
            if texts[number] == "(hangs)" {
                thread::sleep(Duration::from_millis(400));
            } else {
                let _ = stream.write_all(texts[number].as_bytes());
            }
        }
    });
    to
}

#[test]
fn agent_replies_set_share_and_mode() {
    let runtime = runtime();
    let to = agent_sending(&[
        "up ready 100%\n",
        "25%\n",
        "25%\n",
        "drain\n",
        "(hangs)",
        "ready 25%\n",
        "down #disk\n",
    ]);
    let (mut checker, mut events) = Checker::new().unwrap();
    let source = AgentSource::Agent { port: to.port().try_into().unwrap() };
    let target = agent_target(agent(source, 80, 10), to);
    checker.set([], [target.clone()], &|_| None);
    assert!(!checker.is_settled());
    let mut shares = Vec::new();
    for _ in 0..7 {
        let report = runtime.block_on(agent_event(&mut events));
        shares.push((report.share, report.mode, report.failed));
    }
    let silent = Some("no answer within 200ms".to_owned());
    let wanted = [
        (Some(100), AgentMode::Up, None),
        (Some(40), AgentMode::Up, None),
        // The share reaches a quarter within two intervals.
        (Some(25), AgentMode::Up, None),
        (Some(25), AgentMode::Drain, None),
        (Some(25), AgentMode::Drain, silent),
        (Some(25), AgentMode::Up, None),
        (Some(25), AgentMode::Down, None),
    ];
    assert_eq!(shares, wanted);
    assert!(checker.is_settled());
    assert_eq!(checker.agent(&target).unwrap().text, "down #disk");
}

#[test]
fn invalid_agent_replies_are_reported() {
    let runtime = runtime();
    let report = |source: AgentSource, to: SocketAddr| {
        let (mut checker, mut events) = Checker::new().unwrap();
        checker.set([], [agent_target(agent(source, 80, 0), to)], &|_| None);
        runtime.block_on(agent_event(&mut events))
    };
    let line = |to: SocketAddr| AgentSource::Agent { port: to.port().try_into().unwrap() };
    let endless = TcpListener::bind((HERE, 0)).unwrap();
    let endless_agent = endless.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in endless.incoming().flatten() {
            while stream.write_all(&[b'5'; 4096]).is_ok() {}
        }
    });
    let closed_port = TcpListener::bind((HERE, 0)).unwrap().local_addr().unwrap();
    for (to, wanted) in [
        (agent_sending(&[""]), "closed the connection without an answer"),
        (agent_sending(&["hello\n"]), "not an agent's answer: \"hello\""),
        (endless_agent, "sent no end of line in 1024 bytes"),
        (closed_port, "connection refused"),
        (agent_sending(&["(hangs)"]), "no answer within 200ms"),
    ] {
        let report = report(line(to), to);
        assert_eq!(report.failed.as_deref(), Some(wanted));
        assert_eq!((report.share, report.mode), (None, AgentMode::Up));
    }
    // An agent that closes the connection without ending its line.
    let to = agent_sending(&["  \r\n50% up"]);
    assert_eq!(report(line(to), to).share, Some(50));
}

#[test]
fn an_agent_can_be_a_header_or_a_program() {
    let runtime = runtime();
    let server = TcpListener::bind((HERE, 0)).unwrap();
    let to = server.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in server.incoming().flatten() {
            let mut head = [0; 1024];
            let length = stream.read(&mut head).unwrap_or(0);
            let right = head[..length].starts_with(b"GET /load HTTP/1.1\r\n");
            let load = if right { "X-Load: 30% drain" } else { "X-Other: 1" };
            let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{load}\r\n\r\n").as_bytes());
        }
    });
    let report = |source: AgentSource| {
        let (mut checker, mut events) = Checker::new().unwrap();
        checker.set([], [agent_target(agent(source, 80, 0), to)], &|_| None);
        runtime.block_on(agent_event(&mut events))
    };
    let http =
        |path: &str| AgentSource::Http { port: None, path: path.into(), header: "x-load".into() };
    let good = report(http("/load"));
    assert_eq!((good.share, good.mode, good.failed), (Some(30), AgentMode::Drain, None));
    assert_eq!(report(http("/")).failed.as_deref(), Some("answered 200 without x-load"));
    let program = |script: &str| {
        let Probe::Exec(probe) = shell(script) else { unreachable!("an exec probe") };
        report(AgentSource::Exec(probe))
    };
    let port = to.port();
    let good = program(&format!("test $DIRECTOR_PORT = {port} && echo 60% up"));
    assert_eq!((good.share, good.failed), (Some(60), None));
    assert_eq!(program("echo 60%; exit 1").failed.as_deref(), Some("status 1: 60%"));
}

#[test]
fn a_hundred_hanging_agents_delay_no_other() {
    let runtime = runtime();
    let hanging = TcpListener::bind((HERE, 0)).unwrap();
    let to = hanging.local_addr().unwrap();
    let good = agent_sending(&["50%\n"]);
    let (mut checker, mut events) = Checker::new().unwrap();
    let many = (0..100u8).map(|last| {
        let source = AgentSource::Agent { port: to.port().try_into().unwrap() };
        AgentTarget {
            address: IpAddr::from([127, 0, 0, 1]),
            ..agent_target(agent(source, 80, last), to)
        }
    });
    let source = AgentSource::Agent { port: good.port().try_into().unwrap() };
    checker.set([], many.chain([agent_target(agent(source, 100, 0), good)]), &|_| None);
    let reports: Vec<_> = (0..101).map(|_| runtime.block_on(agent_event(&mut events))).collect();
    let answered = reports.iter().position(|report| report.share == Some(50)).expect("it answers");
    assert!(answered < 60, "after {answered} that hang");
}
