//! Thousands of health checks at once: what they cost, and that those which hang delay no other.

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
    policy::config::model::{HealthCheck, Percent, Probe},
};
use nix::{
    sys::{
        resource::{UsageWho, getrusage},
        socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, socket},
        time::TimeValLike as _,
    },
    unistd::{SysconfVar, sysconf},
};

/// Processor time is that of the whole process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());
const BACKENDS: u32 = 2000;
const ANY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

/// The `number`th backend of a group, each with an address of its own on loopback.
fn backend(group: u8, number: u32, port: u16) -> SocketAddr {
    let [.., high, low] = number.to_be_bytes();
    SocketAddr::new([127, group, high, low].into(), port)
}

/// Listens on every address, and does `serve` with each connection.
fn listen_everywhere(serve: impl Fn(TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind((ANY, 0)).unwrap();
    // Many backends in one have many to welcome.
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

/// Memory of this process that is in use. Bytes.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * sysconf(SysconfVar::PAGE_SIZE).unwrap().unwrap() as u64
}

/// Connections in TIME_WAIT that have to do with a port.
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
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
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
        assert!(began.elapsed() < Duration::from_secs(30), "{} wait", checker.unsettled());
        thread::sleep(Duration::from_millis(20));
    }
    println!("first round: {:?}", began.elapsed());
    while let Some(Event::Check { target, health }) = events.try_recv() {
        assert!(health.up && health.good == Some(true), "{target}: {health:?}");
    }

    let probes = || checker.targets().map(|(_, health)| health.probes).sum::<u64>();
    let (made, used, at) = (probes(), processor_time(), Instant::now());
    thread::sleep(Duration::from_secs(10));
    let (made, used, took) = (probes() - made, processor_time() - used, at.elapsed());
    // As if all had been made: on a host that is short of processor time some are not.
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
    let failed = checker.targets().filter(|(_, health)| !health.up || health.not_made > 0);
    assert_eq!(failed.count(), 0);
    assert!(events.try_recv().is_none(), "nothing changed");
}

/// A listener whose queue is full: it answers no SYN. What fills the queue must be kept.
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
fn five_hundred_that_hang_delay_no_other() {
    const INTERVAL: Duration = Duration::from_millis(200);
    const SECONDS: u64 = 5;
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let well = listen_everywhere(|mut stream| {
        thread::spawn(move || {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        });
    });
    let (held, hold) = std::sync::mpsc::channel();
    let mute = listen_everywhere(move |stream| drop(held.send(stream)));
    let (blackhole, _first) = blackhole();
    let black = blackhole.local_addr().unwrap().port();
    let slow = HealthCheck {
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(2),
        ..check(Probe::Http(get()))
    };
    let quick = HealthCheck { interval: INTERVAL, timeout: INTERVAL, fall: 3, ..slow.clone() };
    let hanging = (0..250u32)
        .flat_map(|n| [backend(2, n, mute), backend(3, n, black)])
        .map(|to| target(slow.clone(), to));
    let others: Vec<Target> =
        (0..100).map(|n| target(quick.clone(), backend(4, n, well))).collect();
    let (mut checker, mut events) = Checker::new().unwrap();
    checker.set(hanging.chain(others.iter().cloned()), [], &|_| None);
    // All that hang do by now.
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
    // One that was delayed by a single one of those that hang would miss ten in a row.
    assert!(*least >= due * 3 / 4 && *most <= due + 2, "{least} to {most} probes, {due} were due");
    for other in &others {
        let health = checker.health(other).unwrap();
        assert!(health.up && health.failures * 10 < health.probes, "{other}: {health:?}");
    }
    // And those that hang are known to.
    let mut reasons = [0, 0];
    while let Some(Event::Check { target, health }) = events.try_recv() {
        if health.up {
            assert_eq!(target.port, Some(well));
            continue;
        }
        let is_black = target.port == Some(black);
        let wanted = if is_black { "no connection within 2s" } else { "no answer within 2s" };
        assert_eq!(health.reason, wanted, "{target}");
        reasons[usize::from(is_black)] += 1;
    }
    assert_eq!(reasons, [250, 250]);
    drop(hold);
}
