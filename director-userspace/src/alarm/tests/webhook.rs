use std::time::SystemTime;

use super::{
    sink::{Answer, Http},
    *,
};

#[tokio::test]
async fn a_transition_is_posted_as_json() {
    let server = Http::start(|_| Answer::Endless(200)).await;
    let mut notifier = Notifier::with("edge", &webhooks(&[&server.url()]), quick());
    let subject = Subject::Quorum { name: "web".into(), frontend: "tcp 192.0.2.10:80".into() };
    notifier.notify(Transition::now(subject, "held", "lost", "weight up: 2, needed: 3"));
    notifier.notify(backend(11, "web", "down"));
    notifier.flush(Duration::from_secs(5)).await;
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    let head = requests[0].head.to_lowercase();
    assert!(head.starts_with("post /hook/s3cret?a=b http/1.1\r\n"), "{head}");
    for header in
        ["host: 127.0.0.1:", "content-type: application/json\r\n", "user-agent: director/"]
    {
        assert!(head.contains(header), "{head}");
    }
    let body = &requests[0].body;
    let host = nix::unistd::gethostname().unwrap().to_string_lossy().into_owned();
    let id = body["id"].as_str().unwrap().to_owned();
    let at = body["at"].as_u64().unwrap();
    assert!(at > 1_600_000_000);
    assert_eq!(
        *body,
        serde_json::json!({
            "version": 1, "id": id, "instance": "edge", "host": host, "event": "transition",
            "severity": "warning", "at": at, "transitions": 1, "lost": 0,
            "text": "service web (tcp 192.0.2.10:80): quorum lost (weight up: 2, needed: 3)",
            "kind": "quorum", "service": "web", "frontend": "tcp 192.0.2.10:80", "backend": null,
            "from": "held", "to": "lost", "reason": "weight up: 2, needed: 3",
        })
    );
    assert_eq!(requests[1].body["backend"], "10.0.0.11");
    assert_ne!(requests[1].body["id"], id.as_str());
}

#[tokio::test]
async fn a_failing_server_is_retried_with_growing_waits() {
    let server = Http::start(|n| match n {
        0 => Answer::Status(500),
        1 => Answer::Close,
        2 => Answer::Hang,
        3 => Answer::Status(429),
        _ => Answer::Status(204),
    })
    .await;
    let mut notifier = Notifier::with("main", &webhooks(&[&server.url()]), quick());
    notifier.notify(backend(1, "web", "down"));
    eventually("delivered", || (!server.bodies().is_empty()).then_some(())).await;
    let gaps = server.gaps();
    assert_eq!(gaps.len(), 4, "{gaps:?}");
    // 50 ms doubled each time, up to a quarter less or more; the third try hangs for 300 ms.
    for (gap, (least, most)) in gaps.iter().zip([(37, 250), (75, 300), (450, 900), (300, 700)]) {
        let ms = gap.as_millis();
        assert!((least..=most).contains(&ms), "{gaps:?}");
    }
    notifier.flush(Duration::from_secs(1)).await;
    assert_eq!(server.bodies().len(), 1, "once");
    assert_eq!(server.bodies()[0]["lost"], 0);
}

#[tokio::test]
async fn a_refusal_is_not_retried_and_the_next_message_reports_it() {
    let server = Http::start(|n| match n {
        0 => Answer::Status(404),
        1 => Answer::Status(302),
        _ => Answer::Status(200),
    })
    .await;
    let mut notifier = Notifier::with("main", &webhooks(&[&server.url()]), quick());
    for n in 1..=4 {
        notifier.notify(backend(n, "web", "down"));
    }
    notifier.flush(Duration::from_secs(5)).await;
    let bodies = server.bodies();
    assert_eq!(server.tries(), 4);
    let reported: Vec<_> =
        bodies.iter().map(|body| (body["backend"].as_str().unwrap(), &body["lost"])).collect();
    assert_eq!(reported, [("10.0.0.3", &2.into()), ("10.0.0.4", &0.into())]);
}

#[tokio::test]
async fn a_hanging_webhook_delays_no_other_and_reports_its_lost_messages() {
    let hung = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let is_hung = hung.clone();
    let hangs = Http::start(move |_| match is_hung.load(Ordering::Relaxed) {
        true => Answer::Hang,
        false => Answer::Status(200),
    })
    .await;
    let works = Http::start(|_| Answer::Status(200)).await;
    let mut behaviour = quick();
    behaviour.limits.queue = 4;
    behaviour.retries.tries = 1000;
    let config = webhooks(&[&hangs.url(), &works.url()]);
    let mut notifier = Notifier::with("main", &config, behaviour);
    for n in 1..=12 {
        let began = Instant::now();
        notifier.notify(backend(n, "web", "down"));
        eventually("reported", || (works.bodies().len() == n as usize).then_some(())).await;
        assert!(began.elapsed() < Duration::from_millis(250), "{:?}", began.elapsed());
    }
    assert!(hangs.bodies().is_empty());
    hung.store(false, Ordering::Relaxed);
    eventually("recovered", || (hangs.bodies().len() == 5).then_some(())).await;
    notifier.flush(Duration::from_secs(5)).await;
    let reported: Vec<_> = hangs
        .bodies()
        .iter()
        .map(|body| (body["backend"].as_str().unwrap().to_owned(), body["lost"].as_u64().unwrap()))
        .collect();
    // The first was being delivered all the time; of the others the last four are there.
    let expected = [("1", 7), ("9", 0), ("10", 0), ("11", 0), ("12", 0)]
        .map(|(n, lost)| (format!("10.0.0.{n}"), lost));
    assert_eq!(reported, expected);
}

#[tokio::test]
async fn a_message_is_dropped_after_the_last_try() {
    let server = Http::start(|n| if n < 3 { Answer::Close } else { Answer::Status(200) }).await;
    let mut behaviour = quick();
    behaviour.retries.tries = 3;
    let mut notifier = Notifier::with("main", &webhooks(&[&server.url()]), behaviour);
    notifier.notify(backend(1, "web", "down"));
    eventually("three tries", || (server.tries() == 3).then_some(())).await;
    notifier.notify(backend(2, "web", "down"));
    notifier.flush(Duration::from_secs(5)).await;
    let bodies = server.bodies();
    assert_eq!(bodies.len(), 1);
    assert_eq!((&bodies[0]["backend"], &bodies[0]["lost"]), (&"10.0.0.2".into(), &1.into()));
}

#[tokio::test]
async fn a_refused_connection_is_retried_and_bad_urls_are_errors() {
    let server = Http::start(|_| Answer::Status(200)).await;
    let url = server.url();
    drop(server);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let origin = Arc::new(Origin { instance: "x".into(), host: "h".into(), run: "r".into() });
    let mut webhook = Webhook::new(&url, origin.clone(), Duration::from_secs(1)).unwrap();
    assert!(!webhook.name().contains("s3cret"), "{}", webhook.name());
    let failure = webhook.deliver(&[message()], 0).await.expect_err("no listener");
    assert!(matches!(&failure, worker::Failure::Again { why, .. } if why.contains("127.0.0.1:")));
    for (url, word) in [
        ("ftp://example.com/", "http://"),
        ("http://me:secret@example.com/", "password"),
        ("nonsense", "http://"),
        ("http://[/", "not a URL"),
    ] {
        let why = Webhook::new(url, origin.clone(), Duration::from_secs(1)).err().expect(url);
        assert!(why.contains(word) && !why.contains("secret@"), "{url}: {why}");
    }
}

fn message() -> Arc<message::Message> {
    let event = message::Event::Transition(backend(1, "web", "down"));
    Arc::new(message::Message { number: 1, at: SystemTime::now(), event, missed: 0 })
}
