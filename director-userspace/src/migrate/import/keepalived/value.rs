//! Numbers, times and addresses of a line. What is wrong is an error with the line.

use std::{net::IpAddr, str::FromStr, time::Duration};

use super::{super::error::ImportError, tree::Node};

/// Longest time that is accepted, in seconds.
const MAX_SECONDS: f64 = 4_294_967.0;

/// The number after a keyword.
pub(super) fn number<T: FromStr>(node: &Node, what: &str) -> Result<T, ImportError> {
    let text = node.word(1).unwrap_or_default();
    text.parse().map_err(|_| {
        let message = format!("{} {text}: {what} is missing or malformed", node.keyword());
        ImportError::at(&node.place, message, "write a whole number that is not too large")
    })
}

/// The seconds after a keyword; decimals are allowed.
pub(super) fn seconds(node: &Node) -> Result<Duration, ImportError> {
    let text = node.word(1).unwrap_or_default();
    let seconds = text.parse::<f64>().ok().filter(|n| (0.0..=MAX_SECONDS).contains(n));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| {
        let message = format!("{} {text}: no number of seconds", node.keyword());
        ImportError::at(&node.place, message, "write seconds, such as 6 or 0.5")
    })
}

/// The address that is word `at` of a line.
pub(super) fn address(node: &Node, at: usize) -> Result<IpAddr, ImportError> {
    let text = node.word(at).unwrap_or_default();
    text.parse().map_err(|_| {
        let message = format!("{} {text}: no IP address", node.keyword());
        ImportError::at(&node.place, message, "write an IPv4 or IPv6 address")
    })
}

/// The port that is word `at` of a line; 0 if there is none.
pub(super) fn port(node: &Node, at: usize) -> Result<u16, ImportError> {
    let Some(text) = node.word(at) else { return Ok(0) };
    text.parse().map_err(|_| {
        let message = format!("{} {text}: no port", node.keyword());
        ImportError::at(&node.place, message, "write a port from 0 to 65535")
    })
}

/// The words after a keyword, as one text.
pub(super) fn rest(node: &Node) -> String {
    let words: Vec<&str> = node.words[1..].iter().map(|word| word.text.as_str()).collect();
    words.join(" ")
}
