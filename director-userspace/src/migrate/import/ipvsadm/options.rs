//! One command line of `ipvsadm`, parsed as popt does it.

/// What the line does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    AddService,
    EditService,
    DeleteService,
    AddServer,
    EditServer,
    DeleteServer,
    Clear,
    SetTimeouts,
    SyncDaemon,
    /// Listing, saving, zeroing counters: changes no table.
    ReadOnly,
}

/// An option that is no command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Tcp,
    Udp,
    Sctp,
    Mark,
    Ipv6,
    Scheduler,
    Persistent,
    Netmask,
    Engine,
    Ops,
    Flags,
    Server,
    Direct,
    Tunnel,
    Masquerade,
    TunType,
    TunPort,
    TunChecksum,
    Weight,
    Upper,
    Lower,
    /// How to print, or how fast: not part of a table.
    Ignored,
}

#[derive(Clone, Copy)]
enum Takes {
    Nothing,
    Word,
    /// A word that does not begin with a dash, if there is one.
    MaybeWord,
}

/// A parsed line.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) command: Command,
    /// In order; an option that takes no word has an empty one.
    pub(super) options: Vec<(Key, &'a str)>,
    /// Words that belong to no option.
    pub(super) rest: Vec<&'a str>,
}

enum Meaning {
    Command(Command),
    Key(Key, Takes),
}

#[rustfmt::skip]
fn long(name: &str) -> Option<Meaning> {
    use Meaning::{Command as C, Key as K};
    use Takes::{MaybeWord, Nothing, Word};
    Some(match name {
        "add-service" => C(Command::AddService),
        "edit-service" => C(Command::EditService),
        "delete-service" => C(Command::DeleteService),
        "add-server" => C(Command::AddServer),
        "edit-server" => C(Command::EditServer),
        "delete-server" => C(Command::DeleteServer),
        "clear" => C(Command::Clear),
        "set" => C(Command::SetTimeouts),
        "start-daemon" | "stop-daemon" => C(Command::SyncDaemon),
        "list" | "save" | "restore" | "zero" | "help" | "version" => C(Command::ReadOnly),
        "tcp-service" => K(Key::Tcp, Word),
        "udp-service" => K(Key::Udp, Word),
        "sctp-service" => K(Key::Sctp, Word),
        "fwmark-service" => K(Key::Mark, Word),
        "ipv6" => K(Key::Ipv6, Nothing),
        "scheduler" => K(Key::Scheduler, Word),
        "persistent" => K(Key::Persistent, MaybeWord),
        "netmask" => K(Key::Netmask, Word),
        "pe" => K(Key::Engine, Word),
        "ops" => K(Key::Ops, Nothing),
        "sched-flags" => K(Key::Flags, Word),
        "real-server" => K(Key::Server, Word),
        "gatewaying" => K(Key::Direct, Nothing),
        "ipip" => K(Key::Tunnel, Nothing),
        "masquerading" => K(Key::Masquerade, Nothing),
        "tun-type" => K(Key::TunType, Word),
        "tun-port" => K(Key::TunPort, Word),
        "tun-nocsum" | "tun-csum" | "tun-remcsum" => K(Key::TunChecksum, Nothing),
        "weight" => K(Key::Weight, Word),
        "u-threshold" => K(Key::Upper, Word),
        "l-threshold" => K(Key::Lower, Word),
        "mcast-interface" | "mcast-group" | "mcast-port" | "mcast-ttl" | "syncid"
        | "sync-maxlen" => K(Key::Ignored, Word),
        "numeric" | "connection" | "timeout" | "daemon" | "stats" | "rate" | "thresholds"
        | "persistent-conn" | "tun-info" | "sort" | "nosort" | "exact" => K(Key::Ignored, Nothing),
        _ => return None,
    })
}

fn short(letter: char) -> Option<Meaning> {
    Some(match letter {
        'A' => long("add-service")?,
        'E' => long("edit-service")?,
        'D' => long("delete-service")?,
        'a' => long("add-server")?,
        'e' => long("edit-server")?,
        'd' => long("delete-server")?,
        'C' => long("clear")?,
        'L' | 'l' => long("list")?,
        'S' => long("save")?,
        'R' => long("restore")?,
        'Z' => long("zero")?,
        'h' => long("help")?,
        'v' => long("version")?,
        't' => long("tcp-service")?,
        'u' => long("udp-service")?,
        'f' => long("fwmark-service")?,
        '6' => long("ipv6")?,
        's' => long("scheduler")?,
        'p' => long("persistent")?,
        'M' => long("netmask")?,
        'o' => long("ops")?,
        'b' => long("sched-flags")?,
        'r' => long("real-server")?,
        'g' => long("gatewaying")?,
        'i' => long("ipip")?,
        'm' => long("masquerading")?,
        'w' => long("weight")?,
        'x' => long("u-threshold")?,
        'y' => long("l-threshold")?,
        'n' => long("numeric")?,
        'c' => long("connection")?,
        _ => return None,
    })
}

impl<'a> Line<'a> {
    /// Parses words. An error is a text for people.
    pub(super) fn parse(words: &[&'a str]) -> Result<Self, String> {
        let mut command = None;
        let mut line = Line { command: Command::ReadOnly, options: Vec::new(), rest: Vec::new() };
        let mut words = words.iter().copied().peekable();
        while let Some(word) = words.next() {
            // What an option's value is, if it stands in the same word.
            let mut parts: Vec<(Meaning, &str, Option<&'a str>)> = Vec::new();
            if let Some(name) = word.strip_prefix("--") {
                let (name, value) = match name.split_once('=') {
                    Some((name, value)) => (name, Some(value)),
                    None => (name, None),
                };
                let meaning = long(name).ok_or_else(|| format!("unknown option --{name}"))?;
                parts.push((meaning, word, value));
            } else if let Some(letters) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) {
                let mut rest = letters;
                while let Some(letter) = rest.chars().next() {
                    let meaning =
                        short(letter).ok_or_else(|| format!("unknown option -{letter}"))?;
                    rest = &rest[letter.len_utf8()..];
                    let takes = matches!(meaning, Meaning::Key(_, Takes::Word | Takes::MaybeWord));
                    let value = (takes && !rest.is_empty()).then_some(rest);
                    if takes {
                        rest = "";
                    }
                    parts.push((meaning, word, value));
                }
            } else {
                line.rest.push(word);
            }
            for (meaning, word, value) in parts {
                let (key, takes) = match meaning {
                    Meaning::Command(other) => {
                        if command.is_some_and(|command| command != other) {
                            return Err(format!("{word}: a second command in one line"));
                        }
                        command = Some(other);
                        continue;
                    }
                    Meaning::Key(key, takes) => (key, takes),
                };
                let value = match takes {
                    Takes::Nothing => "",
                    Takes::Word => value
                        .or_else(|| words.next())
                        .ok_or_else(|| format!("{word} needs a value"))?,
                    Takes::MaybeWord => value
                        .or_else(|| words.next_if(|next| !next.starts_with('-')))
                        .unwrap_or_default(),
                };
                if key != Key::Ignored && line.options.iter().any(|(other, _)| *other == key) {
                    return Err(format!("{word} is here twice"));
                }
                line.options.push((key, value));
            }
        }
        line.command = command.ok_or("a line without a command, such as -A or -a")?;
        Ok(line)
    }

    /// The value of an option.
    pub(super) fn get(&self, key: Key) -> Option<&'a str> {
        self.options.iter().find(|(other, _)| *other == key).map(|(_, value)| *value)
    }

    pub(super) fn has(&self, key: Key) -> bool {
        self.get(key).is_some()
    }
}
