//! Tests of all alarms, with real servers on loopback and real programs.

mod exec;
mod journal;
mod mail;
mod sink;
mod webhook;

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{damper::Damping, digest::RateLimit, *};

/// The shipped behaviour with shorter times.
fn quick() -> Behaviour {
    let channels = RateLimit { gather: Duration::from_millis(30), ..RateLimit::CHANNELS };
    let ms = Duration::from_millis;
    Behaviour {
        limits: Limits { channels, ..Limits::default() },
        retries: RetryPolicy { first: ms(50), longest: ms(400), tries: 8 },
        exec_timeout: ms(700),
        webhook_timeout: ms(300),
        mail_timeout: ms(500),
        mail: Batching { most: 256, gather: ms(300), pause: ms(100) },
    }
}

fn backend(n: u32, service: &str, to: &str) -> Transition {
    let subject = Subject::Backend {
        service: service.to_owned(),
        frontend: "tcp 192.0.2.10:80".to_owned(),
        address: IpAddr::from((0x0a00_0000 + n).to_be_bytes()),
    };
    let (from, reason) =
        if to == "down" { ("up", "connection refused") } else { ("down", "connected") };
    Transition::now(subject, from, to, reason)
}

fn webhooks(urls: &[&str]) -> model::Alarms {
    let webhooks = urls.iter().map(|&url| url.to_owned()).collect();
    model::Alarms { webhooks, ..model::Alarms::default() }
}

/// Waits until `done` returns a value.
async fn eventually<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(done) = done() {
            return done;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{what}: not within 10 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_storm_is_few_messages_that_count_all_transitions() {
    let server = sink::Http::start(|_| sink::Answer::Status(200)).await;
    let mut notifier = Notifier::with("main", &webhooks(&[&server.url()]), quick());
    let began = Instant::now();
    // 2,000 backends of 50 services go down and come back: 10,000 transitions.
    for round in 0..5 {
        for n in 0..2000 {
            let to = if round % 2 == 0 { "down" } else { "up" };
            notifier.notify(backend(n, &format!("s{}", n % 50), to));
        }
    }
    assert!(began.elapsed() < Duration::from_secs(2), "notifying took {:?}", began.elapsed());
    notifier.flush(Duration::from_secs(10)).await;
    let bodies = server.bodies();
    assert!((1..=3).contains(&bodies.len()), "{}", bodies.len());
    let reported: u64 = bodies.iter().map(|body| body["transitions"].as_u64().unwrap()).sum();
    assert_eq!(reported, 10_000);
    assert!(bodies.iter().all(|body| body["event"] == "summary"));
    let text = bodies.last().unwrap()["text"].as_str().unwrap();
    assert!(text.starts_with("2000 backends of 1 service down"), "{text}");
    assert!(bodies.iter().all(|body| body.to_string().len() < 10_000), "bounded");
}

#[tokio::test]
async fn a_flapping_subject_is_reported_once() {
    let server = sink::Http::start(|_| sink::Answer::Status(200)).await;
    let mut behaviour = quick();
    let damping = Damping { quiet: Duration::from_millis(400), ..Damping::default() };
    behaviour.limits.damping = damping;
    let mut notifier = Notifier::with("main", &webhooks(&[&server.url()]), behaviour);
    for n in 0..40 {
        notifier.notify(backend(1, "web", if n % 2 == 0 { "down" } else { "up" }));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    notifier.notify(backend(2, "web", "down"));
    eventually("quiet", || server.bodies().iter().any(|b| b["event"] == "quiet").then_some(()))
        .await;
    notifier.flush(Duration::from_secs(5)).await;
    let bodies = server.bodies();
    let of = |event: &str| bodies.iter().filter(|body| body["event"] == event).count();
    assert_eq!((of("transition"), of("flapping"), of("quiet")), (7, 1, 1), "{bodies:#?}");
    let quiet = bodies.iter().find(|body| body["event"] == "quiet").unwrap();
    assert_eq!(
        quiet["text"],
        "backend 10.0.0.1 of web is quiet again: up after 33 more transitions"
    );
}

#[tokio::test]
async fn transitions_beyond_the_queue_are_counted_and_reported() {
    let server = sink::Http::start(|_| sink::Answer::Status(200)).await;
    let mut behaviour = quick();
    behaviour.limits.incoming = 10;
    let mut notifier = Notifier::with("main", &webhooks(&[&server.url()]), behaviour);
    // The dispatcher runs on this thread: it receives nothing before the next await.
    for n in 0..100 {
        notifier.notify(backend(n, "web", "down"));
    }
    notifier.flush(Duration::from_secs(5)).await;
    let bodies = server.bodies();
    assert_eq!(bodies.len(), 10);
    assert_eq!(bodies[0]["missed"], 90);
    let text = bodies[0]["text"].as_str().unwrap();
    assert!(text.ends_with("; 90 earlier transitions were dropped (queue full)"), "{text}");
    assert!(bodies[1..].iter().all(|body| body.get("missed").is_none()));
}

#[tokio::test]
async fn channels_that_stay_in_the_configuration_keep_their_queue() {
    let stays = sink::Http::start(|n| match n {
        0..3 => sink::Answer::Status(503),
        _ => sink::Answer::Status(200),
    })
    .await;
    let goes = sink::Http::start(|_| sink::Answer::Hang).await;
    let comes = sink::Http::start(|_| sink::Answer::Status(200)).await;
    let before = webhooks(&[&goes.url(), &stays.url()]);
    let mut notifier = Notifier::with("main", &before, quick());
    notifier.notify(backend(1, "web", "down"));
    eventually("a try", || (stays.tries() > 0 && goes.tries() > 0).then_some(())).await;
    notifier.configure(&webhooks(&[&stays.url(), &comes.url(), "ftp://example.com/"]));
    notifier.notify(backend(2, "web", "down"));
    notifier.flush(Duration::from_secs(5)).await;
    let backends = |server: &sink::Http| {
        let bodies = server.bodies();
        bodies.iter().map(|body| body["backend"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(backends(&stays), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(backends(&comes), ["10.0.0.2"]);
    let tries = goes.tries();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(goes.tries(), tries, "its task has ended");
}

#[tokio::test]
async fn the_flush_at_the_end_is_bounded_in_time() {
    let server = sink::Http::start(|_| sink::Answer::Status(200)).await;
    let hangs = sink::Http::start(|_| sink::Answer::Hang).await;
    let config = webhooks(&[&server.url(), &hangs.url()]);
    // The shipped times: a message is gathered for a second.
    let mut notifier = Notifier::start("main", &config);
    notifier.notify(Transition::now(Subject::Director, "running", "stopped", "SIGTERM"));
    let began = Instant::now();
    notifier.flush(Duration::from_millis(700)).await;
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
    let bodies = server.bodies();
    assert_eq!(bodies.len(), 1);
    assert_eq!(bodies[0]["text"], "director: running -> stopped (SIGTERM)");
}
