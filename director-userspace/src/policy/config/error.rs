//! Errors and warnings of a configuration file, and how they are printed.

use std::{error::Error, fmt};

use serde::Serialize;

use super::words::words;

/// Most errors reported for one file; the rest is counted.
pub const MAX_REPORTED: usize = 1000;

words! {
    /// What is wrong, in a form that programs can rely on.
    ConfigErrorKind {
        /// The file could not be opened or read.
        Unreadable = "unreadable",
        /// The file is a directory.
        IsDirectory = "is-directory",
        /// The file is a device, a socket or a pipe.
        NotRegular = "not-regular",
        /// The file is longer than [`MAX_BYTES`](super::MAX_BYTES).
        TooBig = "too-big",
        /// The file is no UTF-8 text.
        NotUtf8 = "not-utf8",
        /// The text is no YAML.
        Syntax = "syntax",
        /// Too many values, too deep nesting, or aliases that expand too far.
        TooComplex = "too-complex",
        /// There is nothing in the file.
        Empty = "empty",
        /// There is more than one YAML document in the file.
        MultipleDocuments = "multiple-documents",
        /// A YAML tag such as `!!str`.
        Tag = "tag",
        /// A list where a word belongs, and the like.
        WrongType = "wrong-type",
        /// A list that must not be empty is.
        EmptyList = "empty-list",
        /// A key that does not exist.
        UnknownKey = "unknown-key",
        /// A key that a later version may have.
        UnsupportedKey = "unsupported-key",
        /// A key that another type of check or agent has.
        MisplacedKey = "misplaced-key",
        /// A key twice in one mapping.
        DuplicateKey = "duplicate-key",
        /// A key that must be there is not.
        MissingKey = "missing-key",
        /// A word that does not exist.
        UnknownValue = "unknown-value",
        /// A value that a later version may have.
        UnsupportedValue = "unsupported-value",
        /// A malformed IP address.
        BadAddress = "bad-address",
        /// An IP address that no packet can be sent to, or that stands for another one.
        UnusableAddress = "unusable-address",
        /// Something that is no port.
        BadPort = "bad-port",
        /// Something that is no weight.
        BadWeight = "bad-weight",
        /// A malformed service name.
        BadName = "bad-name",
        /// A MAC address that is malformed, or that no host can have.
        BadMac = "bad-mac",
        /// A malformed duration.
        BadDuration = "bad-duration",
        /// A duration too short or too long for its purpose.
        DurationOutOfRange = "duration-out-of-range",
        /// A malformed size.
        BadSize = "bad-size",
        /// A size too small or too large for its purpose.
        SizeOutOfRange = "size-out-of-range",
        /// A size that is not a power of two.
        NotPowerOfTwo = "not-power-of-two",
        /// A malformed hash key.
        BadHashKey = "bad-hash-key",
        /// A name that no interface can have.
        BadInterfaceName = "bad-interface-name",
        /// An interface twice.
        DuplicateInterface = "duplicate-interface",
        /// More interfaces than [`MAX_INTERFACES`](super::model::MAX_INTERFACES).
        TooManyInterfaces = "too-many-interfaces",
        /// Two tunnel sources of one address family.
        DuplicateFamily = "duplicate-family",
        /// Fixed tunnel sources, but none of a tunnelled backend's address family.
        NoTunnelSource = "no-tunnel-source",
        /// A protocol twice in a list.
        DuplicateProtocol = "duplicate-protocol",
        /// A service name twice.
        DuplicateName = "duplicate-name",
        /// Two services with the same address, protocol and port.
        DuplicateFrontend = "duplicate-frontend",
        /// More services than [`MAX_SERVICES`](super::model::MAX_SERVICES).
        TooManyServices = "too-many-services",
        /// A backend address twice in a service.
        DuplicateBackend = "duplicate-backend",
        /// More backends in a service than [`MAX_BACKENDS`](super::model::MAX_BACKENDS), or in all than
        /// [`MAX_BACKENDS_IN_ALL`](super::model::MAX_BACKENDS_IN_ALL).
        TooManyBackends = "too-many-backends",
        /// A backend of an address family that the forwarding mode cannot carry.
        FamilyMix = "family-mix",
        /// A backend that is itself a VIP: packets would come back.
        BackendIsVip = "backend-is-vip",
        /// Something that is no whole number.
        BadNumber = "bad-number",
        /// A whole number too small or too large for its purpose.
        NumberOutOfRange = "number-out-of-range",
        /// Something that is no share in percent.
        BadPercent = "bad-percent",
        /// A share too small or too large for its purpose.
        PercentOutOfRange = "percent-out-of-range",
        /// A text that is longer than it may be.
        TooLong = "too-long",
        /// A regular expression that is malformed, or too large.
        BadRegex = "bad-regex",
        /// Regular expressions that are too large together.
        TooManyRegexes = "too-many-regexes",
        /// Something that is no HTTP method, or none for a check.
        BadMethod = "bad-method",
        /// Something that is no path of a URL.
        BadPath = "bad-path",
        /// Something that is neither a status code of HTTP nor a range of them.
        BadStatus = "bad-status",
        /// A header's name or value that cannot be sent, or that the file must not set.
        BadHeader = "bad-header",
        /// Something that is no host name, or no `host:port`.
        BadHost = "bad-host",
        /// A malformed DNS name.
        BadDnsName = "bad-dns-name",
        /// A command that does not start with an absolute path.
        BadCommand = "bad-command",
        /// A user or group that cannot exist, or root where that is refused.
        BadAccount = "bad-account",
        /// Something that is no URL, or none for a webhook.
        BadUrl = "bad-url",
        /// A malformed mail address.
        BadMailAddress = "bad-mail-address",
        /// A malformed path of a socket, or address with port.
        BadSocket = "bad-socket",
        /// Two things served at one address and port.
        DuplicateListener = "duplicate-listener",
        /// A check that needs a port, in a service whose port is `any`.
        NoPort = "no-port",
        /// A check that cannot go through the data path.
        PathCheck = "path-check",
    }
}

words! {
    /// What is unusual, but allowed.
    WarningKind {
        /// `services: []`.
        NoServices = "no-services",
        /// A service without backends.
        NoBackends = "no-backends",
        /// A service whose backends all have weight 0.
        AllWeightsZero = "all-weights-zero",
        /// A service in which some backends have an explicit weight, and some don't.
        SomeWeights = "some-weights",
        /// A quorum that all backends together do not reach.
        QuorumTooHigh = "quorum-too-high",
        /// Metrics or the status page are served to other hosts.
        NotLoopback = "not-loopback",
    }
}

/// A place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Position {
    /// Line, the first is 1.
    pub line: u32,
    /// Column in characters, the first is 1.
    pub column: u32,
}

impl Position {
    /// From a line that counts from 1 and a column that counts from 0, as in the YAML parser.
    pub(super) fn new(line: usize, column: usize) -> Self {
        let cut = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self { line: cut(line), column: cut(column.saturating_add(1)) }
    }
}

/// A diagnostic of a file: an error or a warning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic<K> {
    /// The file, as the user named it.
    pub file: String,
    /// What it is.
    pub kind: K,
    /// Where it is; `None` if it is about the whole file.
    #[serde(flatten)]
    pub position: Option<Position>,
    /// Where it is in the document: `services[0].backends[2].weight`. Empty for the document itself.
    pub path: String,
    /// What is wrong, with the value.
    pub message: String,
    /// What to do about it.
    pub hint: String,
    /// The line of the file, if it is not too long to show.
    #[serde(skip)]
    pub(super) source_line: Option<String>,
}

/// An error in a configuration file.
pub type ConfigError = Diagnostic<ConfigErrorKind>;
/// A warning about a configuration file.
pub type Warning = Diagnostic<WarningKind>;

impl<K> Diagnostic<K> {
    /// Shows the line around the place with a caret below it.
    fn fmt_source(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(at), Some(line)) = (self.position, &self.source_line) else { return Ok(()) };
        const WIDTH: usize = 100;
        let column = at.column as usize;
        // Control characters must not reach the terminal, and a tab would misplace the caret.
        let line = line.chars().map(|c| if is_control(c) { ' ' } else { c });
        let from = if column < WIDTH { 0 } else { column - WIDTH / 2 };
        let shown: String = line.skip(from).take(WIDTH).collect();
        let number = at.line.to_string();
        write!(f, "\n  {number} | {}", shown.trim_end())?;
        write!(f, "\n  {:w$} | {:c$}^", "", "", w = number.len(), c = column - 1 - from)
    }
}

/// Control characters, including those that change the text direction.
fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl<K> fmt::Display for Diagnostic<K> {
    /// `file:line:column: path: message`, the line of the file, and the hint, without a last line
    /// break.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(at) = self.position {
            write!(f, ":{}:{}", at.line, at.column)?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)?;
        self.fmt_source(f)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, "\n  help: {}", self.hint) }
    }
}

/// Everything that is wrong with a configuration file, in the file's order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfigErrors {
    /// The file, as the user named it.
    pub source_name: String,
    /// The first [`MAX_REPORTED`] errors; at least one.
    pub errors: Vec<ConfigError>,
    /// How many more there are.
    pub omitted: usize,
}

impl ConfigErrors {
    /// A single error about the whole file.
    pub(super) fn of_file(
        source_name: &str,
        kind: ConfigErrorKind,
        position: Option<Position>,
        message: String,
        hint: &str,
    ) -> Self {
        let error = Diagnostic {
            file: source_name.to_owned(),
            kind,
            position,
            path: String::new(),
            message,
            hint: hint.to_owned(),
            source_line: None,
        };
        Self { source_name: source_name.to_owned(), errors: vec![error], omitted: 0 }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.errors.iter().enumerate() {
            let line_break = if i == 0 { "" } else { "\n" };
            write!(f, "{line_break}{error}")?;
        }
        if self.omitted > 0 {
            write!(f, "\n{}: and {} more errors", self.source_name, self.omitted)?;
        }
        Ok(())
    }
}

impl Error for ConfigErrors {}
