//! Thousands of health checks at once: their cost, and that hanging ones delay no other.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use director_tests::health::{check, get, target};
use director_userspace::{
    health::{Checker, Event, Target},
    policy::{
        config::model::{HealthCheck, Percent, Probe},
        health_policy::HealthState,
    },
};
use nix::{
    sys::{
        resource::{UsageWho, getrusage},
        socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, socket},
        time::TimeValLike as _,
    },
    unistd::{SysconfVar, sysconf},
};

/// Processor time is that of the whole process, so one test runs at a time.
static SERIAL: Mutex<()> = Mutex::new(());
const BACKENDS: u32 = 2000;
const ANY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

/// The `number`th backend of a group, each with its own loopback address.
fn backend(group: u8, number: u32, port: u16) -> SocketAddr {
    let [.., high, low] = number.to_be_bytes();
    SocketAddr::new([127, group, high, low].into(), port)
}

/// Listens on every address, and runs `serve` for each connection.
fn listen_everywhere(serve: impl Fn(TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind((ANY, 0)).unwrap();
    // One listener serves all backends and needs a large backlog.
    listen(&listener, Backlog::new(4096).unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || listener.incoming().flatten().for_each(serve));
    port
}

/// User and system time of this process so far.
fn processor_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let micros = (usage.user_time() + usage.system_time()).num_microseconds();
    Duration::from_micros(micros.try_into().unwrap())
}

/// Resident memory of this process, bytes.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * sysconf(SysconfVar::PAGE_SIZE).unwrap().unwrap() as u64
}

/// Connections in TIME_WAIT with this local or remote port.
fn time_wait(port: u16) -> usize {
    let port = format!(":{port:04X}");
    let is_it = |line: &&str| {
        let mut words = line.split_whitespace().skip(1);
        let (local, remote) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        words.next() == Some("06") && (local.ends_with(&port) || remote.ends_with(&port))
    };
    fs::read_to_string("/proc/self/net/tcp").unwrap().lines().filter(is_it).count()
}

#[test]
fn two_thousand_backends_every_second_cost_little() {
    let _serial = SERIAL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let port = listen_everywhere(drop);
    let every_second = HealthCheck {
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        rise: 2,
        fall: 3,
        jitter: Percent(10),
        ..check(Probe::Tcp)
    };
    let targets: Vec<Target> =
        (0..BACKENDS).map(|n| target(every_second.clone(), backend(1, n, port))).collect();
    let memory = resident();
    let (mut checker, mut events) = Checker::new().unwrap();
    let began = Instant::now();
    checker.set(targets.iter().cloned(), [], &|_| None);
    while !checker.is_settled() {
        assert!(began.elapsed() < Duration::from_secs(30), "{} unsettled", checker.unsettled());
        thread::sleep(Duration::from_millis(20));
    }
    println!("first round: {:?}", began.elapsed());
    while let Some(Event::Check { target, health }) = events.try_recv() {
        assert_eq!(
            (health.state, health.good),
            (HealthState::Up, Some(true)),
            "{target}: {health:?}"
        );
    }

    let probes = || checker.targets().map(|(_, health)| health.probes).sum::<u64>();
    let (made, used, at) = (probes(), processor_time(), Instant::now());
    thread::sleep(Duration::from_secs(10));
    let (made, used, took) = (probes() - made, processor_time() - used, at.elapsed());
    // Scaled to all due probes: a host short of processor time does not make all of them.
    let cores = used.as_secs_f64() / made as f64 * f64::from(BACKENDS);
    let grown = resident().saturating_sub(memory);
    let left = time_wait(port);
    println!(
        "{BACKENDS} backends: {made} probes in {took:?}, {cores:.3} cores ({:.0} µs each), \
         {:.1} MiB more memory, {left} connections in TIME_WAIT",
        used.as_secs_f64() * 1e6 / made as f64,
        grown as f64 / f64::from(1 << 20),
    );
    assert!(made > 10_000, "{made} probes");
    assert!(cores < 0.5, "{cores} cores");
    assert!(grown < 200 << 20, "{grown} bytes");
    assert!(left < 100, "{left} connections in TIME_WAIT");
    for (target, health) in checker.targets() {
        assert_eq!((health.state, health.not_made), (HealthState::Up, 0), "{target}: {health:?}");
    }
    assert!(events.try_recv().is_none(), "nothing changed");
}

/// A listener with a full queue, which answers no SYN. The returned connection fills the queue and
/// must be kept.
fn blackhole() -> (TcpListener, TcpStream) {
    let listener =
        socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(listener.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, 0)).unwrap();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let listener = TcpListener::from(listener);
    let first = TcpStream::connect(("127.0.0.1", listener.local_addr().unwrap().port())).unwrap();
    (listener, first)
}

#[test]
fn five_hundred_hanging_checks_delay_no_other() {
    const INTERVAL: Duration = Duration::from_millis(200);
    const SECONDS: u64 = 5;
    let _serial = SERIAL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let healthy = listen_everywhere(|mut stream| {
        thread::spawn(move || {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        });
    });
    let (sender, kept) = std::sync::mpsc::channel();
    let silent = listen_everywhere(move |stream| drop(sender.send(stream)));
    let (blackhole, _first) = blackhole();
    let full = blackhole.local_addr().unwrap().port();
    let slow = HealthCheck {
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(2),
        ..check(Probe::Http(get()))
    };
    let quick = HealthCheck { interval: INTERVAL, timeout: INTERVAL, fall: 3, ..slow.clone() };
    let hanging = (0..250u32)
        .flat_map(|n| [backend(2, n, silent), backend(3, n, full)])
        .map(|to| target(slow.clone(), to));
    let others: Vec<Target> =
        (0..100).map(|n| target(quick.clone(), backend(4, n, healthy))).collect();
    let (mut checker, mut events) = Checker::new().unwrap();
    checker.set(hanging.chain(others.iter().cloned()), [], &|_| None);
    // All hanging checks are waiting by now.
    thread::sleep(Duration::from_secs(2));
    let probes = |target: &Target| checker.health(target).unwrap().probes;
    let before: Vec<u64> = others.iter().map(probes).collect();
    thread::sleep(Duration::from_secs(SECONDS));
    let due = SECONDS * 1000 / INTERVAL.as_millis() as u64;
    let made: Vec<u64> =
        others.iter().map(probes).zip(before).map(|(now, was)| now - was).collect();
    let (least, most) = (made.iter().min().unwrap(), made.iter().max().unwrap());
    let slowest = others.iter().filter_map(|one| checker.health(one).unwrap().latency).max();
    println!("{due} probes were due of each: {least} to {most} made; slowest answer {slowest:?}");
    // A check delayed by a single hanging one would miss ten probes in a row.
    assert!(*least >= due * 3 / 4 && *most <= due + 2, "{least} to {most} probes, {due} were due");
    for other in &others {
        let health = checker.health(other).unwrap();
        assert_eq!(health.state, HealthState::Up, "{other}: {health:?}");
        assert!(health.failures * 10 < health.probes, "{other}: {health:?}");
    }
    // The hanging checks are reported as failed.
    let mut reasons = [0, 0];
    while let Some(Event::Check { target, health }) = events.try_recv() {
        if health.state == HealthState::Up {
            assert_eq!(target.port, Some(healthy));
            continue;
        }
        let is_full = target.port == Some(full);
        let wanted = if is_full { "no connection within 2s" } else { "no answer within 2s" };
        assert_eq!(health.reason, wanted, "{target}");
        reasons[usize::from(is_full)] += 1;
    }
    assert_eq!(reasons, [250, 250]);
    drop(kept);
}
