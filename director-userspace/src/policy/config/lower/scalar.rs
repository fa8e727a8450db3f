//! Single values: words, numbers, addresses, durations.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU16,
    ops::RangeInclusive,
    time::Duration,
};

use super::mapping::{describe, list, nearest, untagged};
use crate::policy::config::{
    error::ConfigErrorKind as Kind,
    model::{HashKey, MacAddr, Percent, Port, ServiceName},
    raw::Value,
    report::{Item, Report, quote},
    units::{self, UnitError},
    words::Word,
};

const QUOTES_HINT: &str =
    "an IPv6 address in {...} or [...], or one that ends in a colon, needs quotes: \"2001:db8::1\"";
/// Longest duration, so that every clock and map can hold it.
const MAX_DURATION: Duration = Duration::from_secs(365 * 86_400);

/// The text of a scalar; `expected` names it in errors.
pub(super) fn scalar<'a>(
    item: &Item<'a>,
    expected: &str,
    report: &mut Report<'_>,
) -> Option<&'a str> {
    match untagged(item, report) {
        Value::Scalar(text) => Some(text),
        _ => {
            let message = format!("expected {expected}, found {}", describe(item.node));
            let hint = match item.node.value {
                Value::Null => "write a value after the key, or remove the key",
                _ => "write one value, without [] and {}",
            };
            report.error(Kind::WrongType, item, message, hint)
        }
    }
}

/// One of the words of `W`. Those of `later` are not supported yet.
pub(super) fn word<W: Word>(item: &Item<'_>, later: &[&str], report: &mut Report<'_>) -> Option<W> {
    let words: Vec<&str> = W::WORDS.iter().map(|value| value.word()).collect();
    let expected = match words.as_slice() {
        [only] => (*only).to_owned(),
        words => format!("one of {}", list(words)),
    };
    let text = scalar(item, &expected, report)?;
    if let Some(value) =
        W::WORDS.iter().find(|value| value.word() == text || value.aliases().contains(&text))
    {
        return Some(*value);
    }
    if later.contains(&text) {
        let message = format!("{text} is not supported yet (this version does {})", list(&words));
        return report.error(Kind::UnsupportedValue, item, message, format!("write {expected}"));
    }
    let hint = match nearest(text, words.iter().chain(later).copied()) {
        Some(near) => format!("did you mean {near}? This version supports {}", list(&words)),
        None => format!("write {expected}"),
    };
    report.error(Kind::UnknownValue, item, format!("{} does not exist", quote(text)), hint)
}

/// `true` or `false`.
pub(super) fn boolean(item: &Item<'_>, report: &mut Report<'_>) -> Option<bool> {
    match scalar(item, "true or false", report)? {
        "true" => Some(true),
        "false" => Some(false),
        text => {
            let message = format!("{} is neither true nor false", quote(text));
            report.error(Kind::UnknownValue, item, message, "write true or false")
        }
    }
}

/// A unicast address; `prefix` names what this version supports instead of an address prefix, where
/// a later version may take one.
pub(super) fn address(
    item: &Item<'_>,
    prefix: Option<&str>,
    report: &mut Report<'_>,
) -> Option<IpAddr> {
    let text = match untagged(item, report) {
        Value::Scalar(text) => text,
        value => {
            let message = format!("expected an IP address, found {}", describe(item.node));
            let hint =
                if matches!(value, Value::Null) { "write one after the key" } else { QUOTES_HINT };
            return report.error(Kind::WrongType, item, message, hint);
        }
    };
    if let Ok(address) = text.parse() {
        return usable(address, item, report);
    }
    if let (Some(instead), Some((address, length))) = (prefix, text.split_once('/'))
        && address.parse::<IpAddr>().is_ok()
        && length.parse::<u8>().is_ok()
    {
        let message = format!(
            "the address prefix {} is not supported yet (this version {instead})",
            quote(text)
        );
        return report.error(Kind::UnsupportedValue, item, message, "write one address, without /");
    }
    let message = format!("{} is no IP address", quote(text));
    report.error(Kind::BadAddress, item, message, address_hint(text))
}

fn address_hint(text: &str) -> &'static str {
    let is_v4 = |part: &str| part.parse::<Ipv4Addr>().is_ok();
    let is_v6 = |part: &str| part.parse::<Ipv6Addr>().is_ok();
    if text.contains('/') {
        "write one address, without /"
    } else if text.contains('%') {
        "write the address without its zone (%...)"
    } else if text.rsplit_once(':').is_some_and(|(front, _)| is_v4(front)) {
        "write the address alone; packets keep the port of the service"
    } else if text.strip_prefix('[').and_then(|t| t.split(']').next()).is_some_and(is_v6) {
        "write the address alone, without brackets and port"
    } else if text.contains(':') {
        QUOTES_HINT
    } else if text.contains(|c: char| c.is_ascii_alphabetic()) {
        "names are not looked up; write an address such as 192.0.2.10 or 2001:db8::10"
    } else {
        "write an address such as 192.0.2.10 or 2001:db8::10"
    }
}

/// Refuses addresses that no packet could be sent to through Director.
fn usable(address: IpAddr, item: &Item<'_>, report: &mut Report<'_>) -> Option<IpAddr> {
    let mapped = match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped(),
        IpAddr::V4(_) => None,
    };
    let (what, hint) = if let Some(v4) = mapped {
        ("an IPv4-mapped address", format!("write {v4}"))
    } else if address.is_unspecified() {
        ("the unspecified address", "write the address itself".to_owned())
    } else if address.is_loopback() {
        ("a loopback address, which never leaves a host", "write a routable address".to_owned())
    } else if address.is_multicast() {
        ("a multicast address", "write a unicast address".to_owned())
    } else if address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        ("the broadcast address", "write a unicast address".to_owned())
    } else {
        return Some(address);
    };
    report.error(Kind::UnusableAddress, item, format!("{address} is {what}"), hint)
}

/// `any`, or 1 to 65535.
pub(super) fn port(item: &Item<'_>, report: &mut Report<'_>) -> Option<Port> {
    let text = scalar(item, "a port from 1 to 65535, or any", report)?;
    if text == "any" {
        return Some(Port::Any);
    }
    if let Some(port) = number::<NonZeroU16>(text) {
        return Some(Port::Exact(port));
    }
    let is_port = |text: &str| text.trim().parse::<u16>().is_ok();
    if text.split_once('-').is_some_and(|(from, to)| is_port(from) && is_port(to)) {
        let message = format!(
            "the port range {} is not supported yet (this version does one port, or any)",
            quote(text)
        );
        let hint = "write one service per port, or any";
        return report.error(Kind::UnsupportedValue, item, message, hint);
    }
    let (message, hint) = if text.bytes().all(|byte| byte == b'0') {
        ("there is no port 0".to_owned(), "write any for all ports")
    } else if text.bytes().all(|byte| byte.is_ascii_digit()) {
        (format!("{} is more than 65535", cut(text)), "ports run from 1 to 65535")
    } else {
        (format!("{} is no port", quote(text)), "write a number from 1 to 65535, or any")
    };
    report.error(Kind::BadPort, item, message, hint)
}

/// 1 to 65535, of something that has one port.
pub(super) fn exact_port(item: &Item<'_>, report: &mut Report<'_>) -> Option<NonZeroU16> {
    let text = scalar(item, "a port from 1 to 65535", report)?;
    number(text).or_else(|| {
        let message = format!("{} is no port", quote(text));
        report.error(Kind::BadPort, item, message, "write a number from 1 to 65535")
    })
}

/// 0 to 65535.
pub(super) fn weight(item: &Item<'_>, report: &mut Report<'_>) -> Option<u16> {
    let text = scalar(item, "a weight from 0 to 65535", report)?;
    if let Some(weight) = number(text) {
        return Some(weight);
    }
    let message = if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        format!("{} is more than 65535", cut(text))
    } else {
        format!("{} is no weight", quote(text))
    };
    let hint = "weights are whole numbers from 0 (no new flows) to 65535";
    report.error(Kind::BadWeight, item, message, hint)
}

/// A whole number within `range`; `what` names it in errors.
pub(super) fn whole<N>(
    item: &Item<'_>,
    what: &str,
    range: RangeInclusive<N>,
    report: &mut Report<'_>,
) -> Option<N>
where
    N: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    let text = scalar(item, &format!("a whole number for {what}"), report)?;
    let hint = format!("a whole number from {} to {}", range.start(), range.end());
    match number::<N>(text) {
        Some(number) if range.contains(&number) => Some(number),
        None if !is_digits(text) => {
            let message = format!("{} is no whole number", quote(text));
            report.error(Kind::BadNumber, item, message, hint)
        }
        _ => {
            let message = format!("{what} cannot be {}", cut(text));
            report.error(Kind::NumberOutOfRange, item, message, hint)
        }
    }
}

/// A share within `range`, in percent: `50%`.
pub(super) fn percent(
    item: &Item<'_>,
    range: RangeInclusive<u8>,
    report: &mut Report<'_>,
) -> Option<Percent> {
    let text = scalar(item, "a share such as 50%", report)?;
    let Some(digits) = text.strip_suffix('%').filter(|digits| is_digits(digits)) else {
        let message = format!("{} is no share in percent", quote(text));
        let hint = if is_digits(text) {
            format!("write the sign too: {}%", cut(text))
        } else {
            "write a whole number and a percent sign: 50%".to_owned()
        };
        return report.error(Kind::BadPercent, item, message, hint);
    };
    match number(digits) {
        Some(share) if range.contains(&share) => Some(Percent(share)),
        _ => {
            let message = format!("{}% is out of range", cut(digits));
            let hint = format!("from {}% to {}%", range.start(), range.end());
            report.error(Kind::PercentOutOfRange, item, message, hint)
        }
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Decimal digits only: `FromStr` would take a plus sign too.
fn number<N: std::str::FromStr>(text: &str) -> Option<N> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn cut(digits: &str) -> &str {
    digits.get(..40).unwrap_or(digits)
}

pub(super) fn service_name(item: &Item<'_>, report: &mut Report<'_>) -> Option<ServiceName> {
    let text = scalar(item, "a name", report)?;
    text.parse().ok().or_else(|| {
        let message = format!("{} is no service name", quote(text));
        let hint = "1 to 63 characters: small letters a-z, digits, and -";
        report.error(Kind::BadName, item, message, hint)
    })
}

/// A name that the kernel could give to an interface.
pub(super) fn interface_name(item: &Item<'_>, report: &mut Report<'_>) -> Option<String> {
    let text = scalar(item, "an interface's name", report)?;
    let refused = |c: char| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control();
    let fits = (1..=15).contains(&text.len());
    if fits && !text.contains(refused) && !matches!(text, "." | "..") {
        return Some(text.to_owned());
    }
    let message = format!("{} cannot be the name of an interface", quote(text));
    let hint = "1 to 15 bytes, without spaces, / and :; `ip link` lists the names";
    report.error(Kind::BadInterfaceName, item, message, hint)
}

/// A unicast Ethernet address.
pub(super) fn mac(item: &Item<'_>, report: &mut Report<'_>) -> Option<MacAddr> {
    let text = scalar(item, "a MAC address", report)?;
    let problem = match text.parse::<MacAddr>() {
        Ok(MacAddr([0, 0, 0, 0, 0, 0])) => "is all zeroes",
        Ok(MacAddr([first, ..])) if first & 1 == 1 => "is a multicast address",
        Ok(mac) => return Some(mac),
        Err(_) => "is no MAC address",
    };
    let hint = "write the next hop's own address as six pairs of hex digits: 02:00:5e:10:00:01";
    report.error(Kind::BadMac, item, format!("{} {problem}", quote(text)), hint)
}

pub(super) fn hash_key(item: &Item<'_>, report: &mut Report<'_>) -> Option<HashKey> {
    let text = scalar(item, "32 hex digits", report)?;
    text.parse().ok().or_else(|| {
        let message = format!("{} is not 32 hex digits", quote(text));
        let hint = "make one with `openssl rand -hex 16`, and give it to all directors";
        report.error(Kind::BadHashKey, item, message, hint)
    })
}

/// A duration from `min` to a year.
pub(super) fn duration(
    item: &Item<'_>,
    min: Duration,
    report: &mut Report<'_>,
) -> Option<Duration> {
    let text = scalar(item, "a duration such as 2h5m", report)?;
    let duration = match units::parse_duration(text) {
        Ok(duration) => duration,
        Err(UnitError::TooLarge) => Duration::MAX,
        Err(error) => {
            let message = format!("the duration {} {error}", quote(text));
            let hint = match error {
                UnitError::MissingUnit if number::<u64>(text).is_some() => {
                    format!("add a unit: {text}s, {text}ms or {text}m")
                }
                _ => "write whole numbers with d, h, m, s, ms, us or ns: 2h5m, 500ms".to_owned(),
            };
            return report.error(Kind::BadDuration, item, message, hint);
        }
    };
    let (problem, hint) = if duration < min {
        ("is too short", format!("at least {}", units::format_duration(min)))
    } else if duration > MAX_DURATION {
        ("is too long", format!("at most {}", units::format_duration(MAX_DURATION)))
    } else {
        return Some(duration);
    };
    report.error(Kind::DurationOutOfRange, item, format!("{} {problem}", quote(text)), hint)
}

/// A power of two from `min` to `max`, both powers of two.
pub(super) fn power_of_two(
    item: &Item<'_>,
    min: u32,
    max: u32,
    report: &mut Report<'_>,
) -> Option<u32> {
    let text = scalar(item, "a size such as 1Mi", report)?;
    let size = match units::parse_size(text) {
        Ok(size) => size,
        Err(UnitError::TooLarge) => u64::MAX,
        Err(error) => {
            let message = format!("the size {} {error}", quote(text));
            let hint = "write a whole number, optionally with Ki, Mi or Gi: 64Ki, 1Mi";
            return report.error(Kind::BadSize, item, message, hint);
        }
    };
    let (least, most) = (units::format_size(min.into()), units::format_size(max.into()));
    let size = match u32::try_from(size) {
        Ok(size) if (min..=max).contains(&size) => size,
        _ => {
            let message = format!("{} is not between {least} and {most}", quote(text));
            let hint = format!("write a power of two from {least} to {most}");
            return report.error(Kind::SizeOutOfRange, item, message, hint);
        }
    };
    if size.is_power_of_two() {
        return Some(size);
    }
    // In range and not a power of two, so there is one on each side, within the range.
    let above = size.next_power_of_two();
    let below = above / 2;
    let near = if size - below <= above - size { below } else { above };
    let message = format!("{} is no power of two", quote(text));
    let hint = format!("the nearest is {}", units::format_size(near.into()));
    report.error(Kind::NotPowerOfTwo, item, message, hint)
}
