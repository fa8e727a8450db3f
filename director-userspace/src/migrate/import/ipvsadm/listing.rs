//! The listing of `ipvsadm -L` and `-Ln`, with or without `--tun-info`.

use std::collections::HashSet;

use super::{
    super::{
        error::{ImportError, ImportErrors},
        names::Names,
        report::{Effect, Note},
        table::{Identity, LvsServer, LvsService, LvsTable, Method, Place, Protocol},
    },
    endpoint::endpoint,
    save::{persistence, split_flags},
};

/// Headings of listings without weights.
const OTHER_LISTINGS: [&str; 5] = ["Conns", "CPS", "Uthreshold", "PersistConn", "PEName"];

/// Whether a listing begins with this line.
pub(super) fn is_one(line: &str) -> bool {
    let first = line.split_whitespace().next().unwrap_or_default();
    line.starts_with("IP Virtual Server version")
        || line.starts_with("IPVS connection entries")
        || ["Prot", "TCP", "UDP", "SCTP", "FWM", "->", "pro"].contains(&first)
}

pub(super) fn read<'a>(
    lines: impl Iterator<Item = (Place, &'a str)>,
    names: &Names,
) -> Result<LvsTable, ImportErrors> {
    let mut table = LvsTable::default();
    let mut errors = ImportErrors::none();
    let mut has_tunnel_info = false;
    let mut identities = HashSet::new();
    let mut servers = HashSet::new();
    for (place, line) in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let wrong = |message: String| {
            ImportError::at(&place, message, "import what `ipvsadm -S -n` or `ipvsadm -Ln` prints")
        };
        match words[..] {
            ["IP", "Virtual", "Server", ..] => {}
            ["IPVS", "connection", ..] | ["pro", "expire", ..] => {
                return Err(wrong("this is a list of connections, not of services".into()).into());
            }
            ["Prot", ..] | ["->", "RemoteAddress:Port", ..] => {
                if let Some(other) = OTHER_LISTINGS.iter().find(|word| words.contains(word)) {
                    let message = format!("a listing with {other} lacks what the import needs");
                    return Err(wrong(message).into());
                }
                has_tunnel_info |= words.contains(&"TunnelInfo");
            }
            ["->", ref rest @ ..] => match server(&place, rest, has_tunnel_info, names) {
                Err(message) => errors.push(wrong(message)),
                Ok(server) => {
                    let n_services = table.services.len();
                    if !servers.insert((n_services, server.address, server.port)) {
                        errors.push(wrong("this server already exists".into()));
                    }
                    let method = server.method;
                    match table.services.last_mut() {
                        Some(service) => service.servers.push(server),
                        None => errors.push(wrong("a server before the first service".into())),
                    }
                    match method {
                        Method::Ipip if !has_tunnel_info && table.notes.is_empty() => {
                            table.notes.push(tunnel_type(place.clone()));
                        }
                        Method::Ipip
                        | Method::Nat
                        | Method::Direct
                        | Method::Gue
                        | Method::Gre
                        | Method::Local => {}
                    }
                }
            },
            _ => match service(&place, &words, names) {
                Ok(service) => {
                    if !identities.insert(service.identity) {
                        errors.push(wrong(format!("{} already exists", service.identity)));
                    }
                    table.services.push(service);
                }
                Err(message) => errors.push(wrong(message)),
            },
        }
    }
    if errors.errors.is_empty() { Ok(table) } else { Err(errors) }
}

fn tunnel_type(place: Place) -> Note {
    Note {
        place,
        subject: "the listing".into(),
        what: "tunnel-type",
        effect: Effect::Changed,
        why: "this listing does not show the type of tunnels: IPIP is assumed".into(),
        instead: "import what `ipvsadm -S -n` prints, if some are GUE or GRE".into(),
    }
}

/// `TCP  192.0.2.10:80 mh (mh-port) persistent 300 mask 255.255.255.0 pe sip ops`
fn service(place: &Place, words: &[&str], names: &Names) -> Result<LvsService, String> {
    let [kind, text, rest @ ..] = words else {
        return Err("neither a service nor a server".into());
    };
    let mut rest = rest.iter().copied().peekable();
    let protocol = match *kind {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        "FWM" => None,
        other => return Err(format!("{other:?} is neither TCP, UDP, SCTP, FWM nor ->")),
    };
    let identity = match protocol {
        Some(protocol) => {
            let (address, port) = endpoint(text, protocol, names)?;
            Identity::Address { protocol, address, port }
        }
        None => {
            let mark = text.parse().map_err(|_| format!("{text} is no firewall mark"))?;
            Identity::Mark { mark, is_v6: rest.next_if_eq(&"IPv6").is_some() }
        }
    };
    let mut service = LvsService::new(place.clone(), identity);
    rest.next().ok_or("no scheduler")?.clone_into(&mut service.scheduler);
    let (mut timeout, mut mask) = (None, None);
    while let Some(word) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{word} without a value"));
        match word {
            "persistent" => timeout = Some(value()?),
            "mask" => mask = Some(value()?),
            "pe" => service.engine = Some(value()?.to_owned()),
            "ops" => service.ops = true,
            flags if flags.starts_with('(') => {
                let flags = flags.trim_start_matches('(').trim_end_matches(')');
                service.scheduler_flags = split_flags(flags);
            }
            other => return Err(format!("{other:?} is no known option of a service")),
        }
    }
    service.persistence = timeout.map(|timeout| persistence(timeout, mask)).transpose()?;
    Ok(service)
}

/// `10.0.0.1:80 Route 1 3 12`
fn server(
    place: &Place,
    words: &[&str],
    has_tunnel_info: bool,
    names: &Names,
) -> Result<LvsServer, String> {
    let (text, forward, tunnel, weight) = match (words, has_tunnel_info) {
        ([text, forward, tunnel, weight, _, _], true) => (text, forward, *tunnel, weight),
        ([text, forward, weight, _, _], false) => (text, forward, "ipip", weight),
        _ => return Err("a server needs an address, Forward, Weight and two numbers".into()),
    };
    let (address, port) = endpoint(text, Protocol::Tcp, names)?;
    let mut server = LvsServer::new(place.clone(), address, port);
    server.method = match *forward {
        "Route" => Method::Direct,
        "Masq" => Method::Nat,
        "Local" => Method::Local,
        "Tunnel" => match tunnel.split(':').next() {
            Some("ipip") => Method::Ipip,
            Some("gue") => Method::Gue,
            Some("gre") => Method::Gre,
            _ => return Err(format!("{tunnel} is no type of tunnel")),
        },
        other => return Err(format!("{other} is no forwarding method")),
    };
    server.weight = weight.parse().map_err(|_| format!("{weight} is no weight"))?;
    Ok(server)
}
