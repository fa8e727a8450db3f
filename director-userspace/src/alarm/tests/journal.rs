use std::{io, sync::Mutex};

use tracing_subscriber::fmt::MakeWriter;

use super::*;

/// The captured log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Log {
    /// Captures what this thread logs.
    fn capture() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt().json().with_writer(log.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn lines(&self) -> Vec<serde_json::Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[tokio::test]
async fn every_transition_is_in_the_journal_at_once_with_its_fields() {
    let (log, _guard) = Log::capture();
    let notifier = Notifier::start("main", &model::Alarms::default());
    notifier.notify(backend(11, "web", "down"));
    notifier.notify(backend(11, "web", "up"));
    eventually("logged", || (log.lines().len() == 2).then_some(())).await;
    let lines = log.lines();
    assert_eq!((&lines[0]["level"], &lines[1]["level"]), (&"WARN".into(), &"INFO".into()));
    assert_eq!(
        lines[0]["fields"],
        serde_json::json!({
            "message": "backend 10.0.0.11 of web: up -> down (connection refused)",
            "event": "transition", "kind": "backend", "service": "web",
            "frontend": "tcp 192.0.2.10:80", "backend": "10.0.0.11",
            "from": "up", "to": "down", "reason": "connection refused",
        })
    );
}

#[tokio::test]
async fn a_storm_does_not_fill_the_journal() {
    let (log, _guard) = Log::capture();
    let mut notifier = Notifier::start("main", &model::Alarms::default());
    for n in 0..10_000 {
        notifier.notify(backend(n, "web", "down"));
    }
    notifier.flush(Duration::from_secs(5)).await;
    let lines = log.lines();
    assert!(lines.len() < 700, "{}", lines.len());
    let reported = |line: &serde_json::Value| match line["fields"]["event"].as_str() {
        Some("summary") => line["fields"]["transitions"].as_u64().unwrap(),
        Some(_) => 1,
        None => 0,
    };
    assert_eq!(lines.iter().map(reported).sum::<u64>(), 10_000);
}
