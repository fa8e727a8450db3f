//! Mail by SMTP: messages of a few seconds are combined into one.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, SystemTime},
};

use lettre::{
    AsyncSmtpTransport, AsyncTransport as _, Message as Mail, Tokio1Executor,
    message::{Mailbox, header},
    transport::smtp::{
        client::{Tls, TlsParameters},
        extension::ClientId,
    },
};
use tokio::time::timeout;

use super::{
    message::{Event, Message, Origin},
    worker::{Batching, Channel, Failure},
};
use crate::{kernel::wall_clock, policy::config::model};

/// The timeout of one complete try.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest subject, characters.
const MAX_SUBJECT: usize = 150;

/// Messages that come within 5 s are one mail, and there are at most two mails a minute.
pub(super) const BATCHING: Batching =
    Batching { most: 256, gather: Duration::from_secs(5), pause: Duration::from_secs(25) };

/// A mail server and its recipients.
pub(super) struct Mailer {
    /// The configuration.
    pub(super) config: model::Mail,
    /// The sender of messages.
    pub(super) origin: Arc<Origin>,
    /// The timeout of one complete try.
    pub(super) timeout: Duration,
}

type Transport = AsyncSmtpTransport<Tokio1Executor>;

impl Mailer {
    /// Created for each mail, so that current certificates and name service settings apply.
    async fn transport(&self) -> Result<Transport, Failure> {
        let model::Mail { server, starttls, .. } = &self.config;
        let bad = || Failure::Never(format!("{server:?} is not host:port"));
        let (host, port) = server.rsplit_once(':').ok_or_else(bad)?;
        let port = port.parse().map_err(|_| bad())?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = if *starttls {
            let host = host.clone();
            let failed = |error: &dyn std::error::Error| Failure::again(described(error));
            let parameters = tokio::task::spawn_blocking(|| TlsParameters::new(host)).await;
            Tls::Required(parameters.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?)
        } else {
            Tls::None
        };
        Ok(Transport::builder_dangerous(host)
            .port(port)
            .tls(tls)
            .timeout(Some(self.timeout))
            .hello_name(ClientId::Domain(self.origin.host.clone()))
            .build())
    }

    fn compose(&self, messages: &[Arc<Message>], lost: u64) -> Result<Mail, Failure> {
        let mailbox = |address: &str| {
            let mailbox = address.parse::<Mailbox>();
            mailbox.map_err(|error| Failure::Never(format!("{address:?}: {error}")))
        };
        let Origin { instance, host, run } = &*self.origin;
        let number = messages.first().map_or(0, |message| message.number);
        let mut mail = Mail::builder()
            .from(mailbox(&self.config.from)?)
            .subject(subject(instance, messages))
            .message_id(Some(format!("<director-{run}-{number}@{host}>")))
            // Suppresses automatic replies, such as vacation notices.
            .header(AutoSubmitted)
            .header(header::ContentType::TEXT_PLAIN);
        for to in &self.config.to {
            mail = mail.to(mailbox(to)?);
        }
        mail.body(body(&self.origin, messages, lost))
            .map_err(|error| Failure::Never(error.to_string()))
    }
}

impl Channel for Mailer {
    fn name(&self) -> String {
        format!("mail by {}", self.config.server)
    }

    async fn deliver(&mut self, messages: &[Arc<Message>], lost: u64) -> Result<(), Failure> {
        let mail = self.compose(messages, lost)?;
        let sending = async {
            let sent = self.transport().await?.send(mail).await;
            sent.map_err(|error| match error.is_permanent() {
                true => Failure::Never(described(&error)),
                false => Failure::again(described(&error)),
            })
        };
        // The transport's own timeout covers only connecting.
        match timeout(self.timeout, sending).await {
            Ok(sent) => sent.map(drop),
            Err(_) => Err(Failure::again(format!("not sent within {:?}", self.timeout))),
        }
    }
}

/// An error with its cause, which has more detail.
fn described(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) if !error.to_string().contains(&source.to_string()) => {
            format!("{error}: {source}")
        }
        _ => error.to_string(),
    }
}

/// `Auto-Submitted: auto-generated` (RFC 3834).
#[derive(Clone)]
struct AutoSubmitted;

impl header::Header for AutoSubmitted {
    fn name() -> header::HeaderName {
        header::HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> header::HeaderValue {
        header::HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

fn subject(instance: &str, messages: &[Arc<Message>]) -> String {
    let worst = messages.iter().max_by_key(|message| {
        // Of equal ones the first.
        (message.event.severity(), std::cmp::Reverse(message.number))
    });
    let text = worst.map(|message| message.text()).unwrap_or_default();
    let subject = match messages.len() {
        1 => format!("[director {instance}] {text}"),
        n => format!("[director {instance}] {n} alarms, one of them: {text}"),
    };
    subject.chars().take(MAX_SUBJECT).collect()
}

fn body(Origin { instance, host, .. }: &Origin, messages: &[Arc<Message>], lost: u64) -> String {
    let mut body = format!("Director {instance} on {host}:\n\n");
    for message in messages {
        // Writing into a string does not fail.
        let _ = writeln!(
            body,
            "{} {:7} {}",
            utc(message.at),
            message.event.severity().label(),
            message.text()
        );
        if let Event::Summary(summary) = &message.event {
            for example in &summary.examples {
                let _ = writeln!(body, "    {} {}", utc(example.at), example.describe_change());
            }
            let rest = summary.transitions.saturating_sub(summary.examples.len() as u64);
            if rest > 0 {
                let _ = writeln!(body, "    and {rest} more transitions");
            }
        }
    }
    if lost > 0 {
        let _ = writeln!(body, "\nBefore these, {lost} alarms could not be sent and were lost.");
    }
    body.push_str("\n`director services` and `director backends` show the current state.\n");
    body
}

/// A time as `2026-03-01 12:30:05Z`.
fn utc(at: SystemTime) -> String {
    const DAY: u64 = 86_400;
    let seconds = wall_clock::seconds(at);
    let (mut day, time) = (seconds / DAY, seconds % DAY);
    let leap = |year: u64| year.is_multiple_of(if year.is_multiple_of(100) { 400 } else { 4 });
    let mut year = 1970;
    loop {
        let days = if leap(year) { 366 } else { 365 };
        if day < days || year >= 9999 {
            break;
        }
        day -= days;
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 1;
    for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < days {
            break;
        }
        day -= days;
        month += 1;
    }
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{:02} {hour:02}:{minute:02}:{second:02}Z", day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        let written = |seconds| utc(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        // As `date -u -d @SECONDS` prints them.
        assert_eq!(written(0), "1970-01-01 00:00:00Z");
        assert_eq!(written(951_782_399), "2000-02-28 23:59:59Z");
        assert_eq!(written(951_782_400), "2000-02-29 00:00:00Z");
        assert_eq!(written(1_735_689_599), "2024-12-31 23:59:59Z");
        assert_eq!(written(1_772_323_200), "2026-03-01 00:00:00Z");
        assert_eq!(written(4_107_542_400), "2100-03-01 00:00:00Z");
        assert_eq!(utc(SystemTime::UNIX_EPOCH - Duration::from_secs(9)), written(0));
        // A wrong clock in the far future takes no time.
        assert!(written(u64::from(u32::MAX) * 1000).starts_with("9999-"));
    }
}
