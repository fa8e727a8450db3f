use super::{
    sink::{MailServer, Smtp},
    *,
};

fn config(server: &MailServer, starttls: bool) -> model::Alarms {
    let mail = model::Mail {
        server: server.address.to_string(),
        starttls,
        from: "director@lb1.example".into(),
        to: vec!["ops@example.com".into(), "Night Watch <night@example.com>".into()],
    };
    model::Alarms { mail: Some(mail), ..model::Alarms::default() }
}

#[tokio::test]
async fn transitions_within_seconds_are_one_mail() {
    let server = MailServer::start(|_| Smtp::Accepts).await;
    let mut notifier = Notifier::with("edge", &config(&server, false), quick());
    notifier.notify(backend(12, "web", "up"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    notifier.notify(backend(11, "web", "down"));
    eventually("a mail", || (!server.mails().is_empty()).then_some(())).await;
    notifier.flush(Duration::from_secs(5)).await;
    let mails = server.mails();
    assert_eq!(mails.len(), 1, "{mails:#?}");
    let mail = &mails[0];
    assert_eq!(mail.from, "MAIL FROM:<director@lb1.example>");
    assert_eq!(mail.to, ["RCPT TO:<ops@example.com>", "RCPT TO:<night@example.com>"]);
    let host = nix::unistd::gethostname().unwrap().to_string_lossy().into_owned();
    assert_eq!(mail.hello, format!("EHLO {host}"));
    let (head, body) = mail.data.split_once("\r\n\r\n").expect("a head and a body");
    let head = head.replace("\r\n ", " ");
    for line in [
        "From: director@lb1.example",
        "Subject: [director edge] 2 alarms, one of them: backend 10.0.0.11 of web: up -> down \
         (connection refused)",
        "To: ops@example.com, \"Night Watch\" <night@example.com>",
        "Auto-Submitted: auto-generated",
        "Content-Type: text/plain; charset=utf-8",
        "Message-ID: <director-",
        "Date: ",
    ] {
        assert!(head.lines().any(|l| l.starts_with(line)), "no {line:?} in\n{head}");
    }
    let body = body.replace("=\r\n", "").replace("=3D", "=");
    assert!(body.starts_with(&format!("Director edge on {host}:\r\n")), "{body}");
    for line in [
        "Z info    backend 10.0.0.12 of web: down -> up (connected)\r\n",
        "Z warning backend 10.0.0.11 of web: up -> down (connection refused)\r\n",
    ] {
        assert!(body.contains(line), "no {line:?} in\n{body}");
    }
}

#[tokio::test]
async fn a_storm_is_one_mail_with_the_most_important_transitions() {
    let server = MailServer::start(|_| Smtp::Accepts).await;
    let mut notifier = Notifier::with("main", &config(&server, false), quick());
    for n in 0..500 {
        notifier.notify(backend(n, "web", "down"));
    }
    let name = "web".to_owned();
    let service = Subject::Service { name, frontend: "tcp 192.0.2.10:80".into() };
    notifier.notify(Transition::now(service, "degraded", "down", "quorum lost"));
    notifier.flush(Duration::from_secs(5)).await;
    let mails = server.mails();
    assert_eq!(mails.len(), 1);
    let data = mails[0].data.replace("=\r\n", "");
    for words in [
        "1 service down, 500 backends of 1 service down (501 transitions)",
        "service web: degraded -> down",
        "and 481 more transitions",
    ] {
        assert!(data.contains(words), "no {words:?} in\n{data}");
    }
}

#[tokio::test]
async fn a_temporary_failure_is_retried() {
    let server = MailServer::start(|n| match n {
        0 => Smtp::Later,
        1 => Smtp::Silent,
        _ => Smtp::Accepts,
    })
    .await;
    let mut notifier = Notifier::with("main", &config(&server, false), quick());
    notifier.notify(backend(1, "web", "down"));
    eventually("a mail", || (!server.mails().is_empty()).then_some(())).await;
    notifier.flush(Duration::from_secs(1)).await;
    assert_eq!((server.tries(), server.mails().len()), (3, 1));
}

#[tokio::test]
async fn a_refused_mail_is_not_retried_and_the_next_one_reports_it() {
    let server = MailServer::start(|n| if n == 0 { Smtp::Refuses } else { Smtp::Accepts }).await;
    let mut notifier = Notifier::with("main", &config(&server, false), quick());
    notifier.notify(backend(1, "web", "down"));
    notifier.flush(Duration::from_secs(5)).await;
    assert_eq!(server.tries(), 1);
    notifier.notify(backend(2, "web", "down"));
    notifier.flush(Duration::from_secs(5)).await;
    let mails = server.mails();
    assert_eq!((server.tries(), mails.len()), (2, 1));
    assert!(mails[0].data.contains("Before these, 1 alarms could not be sent"), "{mails:?}");
}

#[tokio::test]
async fn without_the_configured_encryption_no_mail_is_sent() {
    let server = MailServer::start(|_| Smtp::Accepts).await;
    let mut notifier = Notifier::with("main", &config(&server, true), quick());
    notifier.notify(backend(1, "web", "down"));
    eventually("a try", || (server.tries() > 0).then_some(())).await;
    notifier.flush(Duration::from_millis(500)).await;
    assert!(server.mails().is_empty());
}
