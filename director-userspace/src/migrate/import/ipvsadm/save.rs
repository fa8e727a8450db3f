//! Commands, as `ipvsadm -S` prints them and people write them, replayed in order.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use super::{
    super::{
        error::{ImportError, ImportErrors},
        names::Names,
        report::{Effect, Note},
        table::{
            Identity, LvsServer, LvsService, LvsTable, Method, Persistence, Place, Protocol,
            Timeouts,
        },
    },
    endpoint::endpoint,
    options::{Command, Key, Line},
};

const NUMERIC: &str = "`ipvsadm -S -n` prints numbers instead of names";

/// A table that is being built.
#[derive(Default)]
struct Replay {
    services: Vec<Option<Building>>,
    by_identity: HashMap<Identity, usize>,
    timeouts: Timeouts,
    notes: Vec<Note>,
}

struct Building {
    service: LvsService,
    /// Servers that were deleted leave a gap.
    servers: Vec<Option<LvsServer>>,
    by_endpoint: HashMap<(IpAddr, u16), usize>,
}

/// Why a line cannot be replayed, and what to do.
struct LineError(String, String);

impl From<String> for LineError {
    fn from(message: String) -> Self {
        Self(
            message,
            "man ipvsadm has the options; `ipvsadm -S -n` prints the current rules".into(),
        )
    }
}

fn line_error(message: impl Into<String>, hint: impl Into<String>) -> LineError {
    LineError(message.into(), hint.into())
}

pub(super) fn read<'a>(
    lines: impl Iterator<Item = (Place, &'a str)>,
    names: &Names,
) -> Result<LvsTable, ImportErrors> {
    let mut replay = Replay::default();
    let mut errors = ImportErrors::none();
    for (place, line) in lines {
        if let Err(LineError(message, hint)) = replay.line(&place, line, names) {
            errors.push(ImportError::at(&place, message, hint));
        }
    }
    if !errors.errors.is_empty() {
        return Err(errors);
    }
    let services = replay.services.into_iter().flatten().map(|building| {
        let mut service = building.service;
        service.servers = building.servers.into_iter().flatten().collect();
        service
    });
    Ok(LvsTable { services: services.collect(), timeouts: replay.timeouts, notes: replay.notes })
}

impl Replay {
    fn line(&mut self, place: &Place, line: &str, names: &Names) -> Result<(), LineError> {
        let words = words(line)?;
        if words.is_empty() {
            return Ok(());
        }
        let line = Line::parse(&words)?;
        if let Some(word) = line.rest.first()
            && !matches!(line.command, Command::SetTimeouts | Command::SyncDaemon)
        {
            return Err(format!("{word}: an argument that belongs to no option").into());
        }
        match line.command {
            Command::ReadOnly => {}
            Command::Clear => {
                self.services.clear();
                self.by_identity.clear();
            }
            Command::SetTimeouts => self.set_timeouts(&line)?,
            Command::SyncDaemon => self.notes.push(sync_daemon(place.clone())),
            Command::AddService => {
                let identity = identity(&line, names)?;
                if self.by_identity.contains_key(&identity) {
                    let message = format!("the service {identity} already exists");
                    return Err(line_error(message, "remove one of the two lines"));
                }
                let mut service = LvsService::new(place.clone(), identity);
                describe(&mut service, &line)?;
                self.by_identity.insert(identity, self.services.len());
                let servers = Vec::new();
                self.services.push(Some(Building {
                    service,
                    servers,
                    by_endpoint: HashMap::new(),
                }));
            }
            Command::EditService => {
                let identity = identity(&line, names)?;
                let building = self.find(identity)?;
                // Omitted options go back to the default, as in ipvsadm.
                let mut service = LvsService::new(place.clone(), identity);
                describe(&mut service, &line)?;
                building.service = service;
            }
            Command::DeleteService => {
                let identity = identity(&line, names)?;
                self.find(identity)?;
                if let Some(at) = self.by_identity.remove(&identity) {
                    self.services[at] = None;
                }
            }
            Command::AddServer | Command::EditServer => {
                let identity = identity(&line, names)?;
                let building = self.find(identity)?;
                let server = server(place, &line, identity, names)?;
                let endpoint = (server.address, server.port);
                match (building.by_endpoint.get(&endpoint), line.command) {
                    (Some(&at), Command::EditServer) => building.servers[at] = Some(server),
                    (Some(_), _) => {
                        let message = format!("the server {} already exists", server.address);
                        return Err(line_error(message, "remove one of the two lines"));
                    }
                    (None, Command::EditServer) => return Err(no_server(server.address)),
                    (None, _) => {
                        building.by_endpoint.insert(endpoint, building.servers.len());
                        building.servers.push(Some(server));
                    }
                }
            }
            Command::DeleteServer => {
                let identity = identity(&line, names)?;
                let building = self.find(identity)?;
                let server = server(place, &line, identity, names)?;
                let at = building.by_endpoint.remove(&(server.address, server.port));
                let at = at.ok_or_else(|| no_server(server.address))?;
                building.servers[at] = None;
            }
        }
        Ok(())
    }

    fn find(&mut self, identity: Identity) -> Result<&mut Building, LineError> {
        let found = self.by_identity.get(&identity).copied();
        found.and_then(|at| self.services[at].as_mut()).ok_or_else(|| {
            let message = format!("there is no service {identity} here");
            line_error(message, "a line with -A comes before those of its servers")
        })
    }

    fn set_timeouts(&mut self, line: &Line<'_>) -> Result<(), LineError> {
        let [tcp, closing, udp] = line.rest[..] else {
            return Err("--set takes three numbers: tcp, tcpfin and udp".to_owned().into());
        };
        let seconds = |text: &str| match text.parse::<u32>() {
            // 0 keeps the current value.
            Ok(0) => Ok(None),
            Ok(seconds) => Ok(Some(Duration::from_secs(seconds.into()))),
            Err(_) => Err(LineError::from(format!("{text} is no number of seconds"))),
        };
        let before = self.timeouts.clone();
        self.timeouts = Timeouts {
            tcp: seconds(tcp)?.or(before.tcp),
            tcp_closing: seconds(closing)?.or(before.tcp_closing),
            udp: seconds(udp)?.or(before.udp),
        };
        Ok(())
    }
}

pub(in crate::migrate::import) fn sync_daemon(place: Place) -> Note {
    Note {
        place,
        subject: "sync daemon".into(),
        what: "sync-daemon",
        effect: Effect::NotCarried,
        why: "Director sends no connections to other directors".into(),
        instead: "directors with the same hash_key and services place a flow alike, so a standby \
                  continues most of them without synchronization"
            .into(),
    }
}

fn no_server(address: IpAddr) -> LineError {
    line_error(format!("the service has no server {address}"), "a line with -a comes first")
}

/// The options of a line; none if it has no command. A line of another program is an error.
fn words(line: &str) -> Result<Vec<&str>, LineError> {
    let script = || {
        line_error(
            "this is no rule of ipvsadm",
            "if it is a shell script, run it, and import what `ipvsadm -S -n` prints then",
        )
    };
    if line.contains(['$', '`', ';', '|', '&', '<', '>', '(']) {
        return Err(script());
    }
    let words = line.split_whitespace().take_while(|word| !word.starts_with('#'));
    let mut words: Vec<&str> = words.map(|word| word.trim_matches(['"', '\''])).collect();
    if words.first() == Some(&"sudo") {
        words.remove(0);
    }
    match words.first() {
        None => Ok(words),
        Some(first) if first.starts_with('-') => Ok(words),
        Some(first) if first.rsplit('/').next() == Some("ipvsadm") => {
            words.remove(0);
            Ok(words)
        }
        Some(_) => Err(script()),
    }
}

fn identity(line: &Line<'_>, names: &Names) -> Result<Identity, LineError> {
    let protocols =
        [(Key::Tcp, Protocol::Tcp), (Key::Udp, Protocol::Udp), (Key::Sctp, Protocol::Sctp)];
    let mut found = None;
    for (key, protocol) in protocols {
        let Some(text) = line.get(key) else { continue };
        let (address, port) =
            endpoint(text, protocol, names).map_err(|message| line_error(message, NUMERIC))?;
        if found.replace(Identity::Address { protocol, address, port }).is_some() {
            return Err("two services in one line".to_owned().into());
        }
    }
    if let Some(text) = line.get(Key::Mark) {
        let mark = text.parse::<u32>().ok().filter(|mark| *mark > 0);
        let mark = mark.ok_or_else(|| format!("{text} is no firewall mark"))?;
        let is_v6 = line.has(Key::Ipv6);
        if found.replace(Identity::Mark { mark, is_v6 }).is_some() {
            return Err("two services in one line".to_owned().into());
        }
    }
    found.ok_or_else(|| "no service: -t, -u, --sctp-service or -f is missing".to_owned().into())
}

/// A service's own options.
fn describe(service: &mut LvsService, line: &Line<'_>) -> Result<(), LineError> {
    if let Some(scheduler) = line.get(Key::Scheduler) {
        scheduler.clone_into(&mut service.scheduler);
    }
    if let Some(flags) = line.get(Key::Flags) {
        service.scheduler_flags = split_flags(flags);
    }
    service.ops = line.has(Key::Ops);
    service.engine = line.get(Key::Engine).map(ToOwned::to_owned);
    if let Some(text) = line.get(Key::Persistent) {
        service.persistence = Some(persistence(text, line.get(Key::Netmask))?);
    }
    Ok(())
}

/// Flags between commas.
pub(super) fn split_flags(text: &str) -> Vec<String> {
    text.split(',').filter(|flag| !flag.is_empty()).map(ToOwned::to_owned).collect()
}

/// A timeout in seconds, 300 if it is empty, and a mask.
pub(super) fn persistence(timeout: &str, mask: Option<&str>) -> Result<Persistence, String> {
    let seconds = match timeout {
        "" => 300,
        text => text.parse::<u32>().map_err(|_| format!("{text} is no number of seconds"))?,
    };
    let prefix = mask.map(mask_length).transpose()?.filter(|length| ![32, 128].contains(length));
    Ok(Persistence { timeout: Duration::from_secs(seconds.into()), prefix })
}

/// `255.255.255.0`, or a prefix's length.
pub(in crate::migrate::import) fn mask_length(text: &str) -> Result<u8, String> {
    let length = match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(mask)) => mask.to_bits().leading_ones(),
        Ok(IpAddr::V6(mask)) => mask.to_bits().leading_ones(),
        Err(_) => {
            let length = text.trim_start_matches('/').parse().ok();
            length.filter(|n| *n <= 128).ok_or_else(|| format!("{text} is no netmask"))?
        }
    };
    u8::try_from(length).map_err(|_| format!("{text} is no netmask"))
}

fn server(
    place: &Place,
    line: &Line<'_>,
    identity: Identity,
    names: &Names,
) -> Result<LvsServer, LineError> {
    let text = line.get(Key::Server).ok_or_else(|| "no server: -r is missing".to_owned())?;
    let (protocol, service_port) = match identity {
        Identity::Address { protocol, port, .. } => (protocol, port),
        Identity::Mark { .. } => (Protocol::Tcp, 0),
    };
    let (address, port) =
        endpoint(text, protocol, names).map_err(|message| line_error(message, NUMERIC))?;
    let port = if port == 0 { service_port } else { port };
    let mut server = LvsServer::new(place.clone(), address, port);
    let methods = [Key::Direct, Key::Tunnel, Key::Masquerade].into_iter();
    let methods: Vec<Key> = methods.filter(|key| line.has(*key)).collect();
    server.method = match methods[..] {
        [] | [Key::Direct] => Method::Direct,
        [Key::Masquerade] => Method::Nat,
        [_] => match line.get(Key::TunType) {
            None | Some("ipip") => Method::Ipip,
            Some("gue") => Method::Gue,
            Some("gre") => Method::Gre,
            Some(other) => return Err(format!("{other} is no type of tunnel").into()),
        },
        _ => return Err("more than one of -g, -i and -m".to_owned().into()),
    };
    let number = |key, default| match line.get(key) {
        None => Ok(default),
        Some(text) => {
            let number = text.parse::<u32>().ok().filter(|n| i32::try_from(*n).is_ok());
            number
                .ok_or_else(|| LineError::from(format!("{text} is no number from 0 to 2147483647")))
        }
    };
    server.weight = number(Key::Weight, 1)?;
    server.upper = number(Key::Upper, 0)?;
    server.lower = number(Key::Lower, 0)?;
    Ok(server)
}
