//! Why a probe failed, in words for an operator.

use std::{fmt::Write as _, io, time::Duration};

use nix::errno::Errno;

/// Longest reason, in characters.
const LONGEST: usize = 200;

/// Why a probe failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Caused by the backend or the path to it: counts as a failure.
    Backend(String),
    /// This host could not run the probe: the result says nothing about the backend.
    Host(String),
}

impl Failure {
    /// A failure of the backend or the path to it.
    pub(super) fn backend(reason: impl Into<String>) -> Self {
        Self::Backend(reason.into())
    }

    /// A failure of this host.
    pub(super) fn host(reason: impl Into<String>) -> Self {
        Self::Host(reason.into())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::from(&error)
    }
}

impl From<&io::Error> for Failure {
    fn from(error: &io::Error) -> Self {
        let Some(errno) = error.raw_os_error().map(Errno::from_raw) else {
            return Self::Backend(match error.kind() {
                io::ErrorKind::BrokenPipe => "connection closed".into(),
                io::ErrorKind::UnexpectedEof => {
                    "closed the connection before a whole answer".into()
                }
                _ => one_line(&error.to_string()),
            });
        };
        match errno {
            Errno::ECONNREFUSED => Self::backend("connection refused"),
            Errno::ECONNRESET | Errno::ECONNABORTED => Self::backend("connection reset"),
            Errno::EPIPE => Self::backend("connection closed"),
            Errno::EHOSTUNREACH => Self::backend("no route to host, or no answer to ARP/ND"),
            Errno::ENETUNREACH => Self::backend("network unreachable"),
            Errno::EHOSTDOWN => Self::backend("host is down"),
            Errno::ETIMEDOUT => Self::backend("no connection: timed out"),
            Errno::EMFILE => {
                Self::host("not probed: the daemon is out of file descriptors (raise LimitNOFILE=)")
            }
            Errno::ENFILE => {
                Self::host("not probed: this host is out of file descriptors (raise fs.file-max)")
            }
            Errno::ENOMEM | Errno::ENOBUFS => Self::host("not probed: this host is out of memory"),
            Errno::EAGAIN => {
                Self::host("not probed: this host is out of a resource, try ulimit -a")
            }
            Errno::EADDRNOTAVAIL => Self::host(
                "not probed: this host has no free port, or no source address of that family",
            ),
            Errno::EPERM | Errno::EACCES => {
                Self::host("not probed: forbidden by this host's firewall or missing privileges")
            }
            errno => Self::backend(one_line(errno.desc())),
        }
    }
}

/// Foreign text as one line of bounded length without terminal control sequences.
pub(super) fn one_line(text: &str) -> String {
    let mut line = String::new();
    let mut left = LONGEST;
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        for character in word.chars() {
            if left == 0 {
                line.push_str("...");
                return line;
            }
            left -= 1;
            line.push(if is_plain(character) { character } else { '?' });
        }
    }
    line
}

/// Whether a terminal only displays it.
fn is_plain(character: char) -> bool {
    !character.is_control()
        && !matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// A time as the configuration writes it: `1s`, `250ms`, `1.5s`.
pub(super) fn shown(time: Duration) -> String {
    if time.subsec_nanos() == 0 {
        return format!("{}s", time.as_secs());
    }
    let mut text = String::new();
    let millis = time.as_secs_f64() * 1e3;
    let _ =
        if millis < 1e3 { write!(text, "{millis}ms") } else { write!(text, "{}s", millis / 1e3) };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_the_host_are_not_the_backends() {
        let of = |errno: Errno| Failure::from(io::Error::from(errno));
        for errno in [
            Errno::EMFILE,
            Errno::ENFILE,
            Errno::ENOBUFS,
            Errno::ENOMEM,
            Errno::EAGAIN,
            Errno::EADDRNOTAVAIL,
            Errno::EPERM,
        ] {
            let failure = of(errno);
            assert!(
                matches!(&failure, Failure::Host(why) if why.starts_with("not probed: ")),
                "{errno}: {failure:?}"
            );
        }
        for (errno, reason) in [
            (Errno::ECONNREFUSED, "connection refused"),
            (Errno::ECONNRESET, "connection reset"),
            (Errno::ENETUNREACH, "network unreachable"),
            (Errno::EMSGSIZE, "message too long"),
        ] {
            let Failure::Backend(text) = of(errno) else { panic!("{errno} is the host's") };
            assert_eq!(text.to_lowercase(), reason);
        }
    }

    #[test]
    fn foreign_text_is_one_harmless_line() {
        assert_eq!(one_line(" a\r\n\tb \u{1b}[31mred\u{7}\u{202e} c"), "a b ?[31mred?? c");
        assert_eq!(one_line(&"x".repeat(300)), format!("{}...", "x".repeat(200)));
        assert_eq!(one_line(&"x y".repeat(0)), "");
        assert_eq!(one_line("h\u{e9}"), "h\u{e9}");
    }

    #[test]
    fn times_are_shown_in_the_configurations_format() {
        let shown = |millis| shown(Duration::from_millis(millis));
        assert_eq!(
            [shown(1000), shown(250), shown(1500), shown(60_000)].join(" "),
            "1s 250ms 1.5s 60s"
        );
    }
}
