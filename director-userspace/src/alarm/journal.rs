//! Alarms in the daemon's log.

use tracing::{info, warn};

use super::{
    message::{Event, Message},
    transition::{Severity, Subject, Transition},
};

/// Writes a message to the log: one line, with structured fields. Transitions of the daemon itself
/// are already logged, with more detail.
pub(super) fn write(message: &Message) {
    if message.transition().is_some_and(|about| about.subject == Subject::Director) {
        return;
    }
    let text = message.text();
    let (event, transitions) = (message.kind(), message.transitions());
    // A macro, because the level is static per call site.
    macro_rules! line {
        ($level:ident) => {
            match message.transition() {
                Some(Transition { subject, from, to, reason, .. }) => $level!(
                    event,
                    kind = subject.kind(),
                    service = subject.service(),
                    frontend = subject.frontend(),
                    backend = subject.backend().map(tracing::field::display),
                    from,
                    to,
                    reason,
                    "{text}"
                ),
                None => $level!(event, transitions, "{text}"),
            }
        };
    }
    match message.event.severity() {
        Severity::Info => line!(info),
        Severity::Warning => line!(warn),
    }
    if let Event::Summary(summary) = &message.event {
        for example in &summary.examples {
            match example.severity() {
                Severity::Info => info!("  {}", example.describe()),
                Severity::Warning => warn!("  {}", example.describe()),
            }
        }
    }
}
