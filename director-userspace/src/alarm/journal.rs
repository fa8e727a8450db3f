//! The daemon's log.

use tracing::{info, warn};

use super::{
    message::{Event, Message},
    transition::{Severity, Subject, Transition},
};

/// Writes a message into the log: one line, and fields for programs. What happens to the daemon itself
/// it has said already, at more length.
pub(super) fn write(message: &Message) {
    if message.transition().is_some_and(|about| about.subject == Subject::Director) {
        return;
    }
    let text = message.text();
    let (event, transitions) = (message.kind(), message.transitions());
    // Levels are part of a call's place, hence a macro.
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
