//! VLAN tags that a program in generic mode does not see.
//!
//! A NIC that takes the tag off a received frame keeps it in the packet's metadata, where a program in
//! generic mode can neither see nor clear it: what the program sends leaves with the received tag, in
//! addition to the next hop's own. (In native mode the metadata is not kept.)

use crate::kernel::net::Link;

/// The offload that takes tags off received frames.
const RX_VLAN: &str = "rx-vlan-hw-parse";

/// What hides tags from a program in generic mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HiddenTags {
    /// A VLAN device on the interface: tagged frames arrive.
    pub vlan: String,
    /// The devices that take the tags off.
    pub devices: Vec<String>,
    /// Whether one of them is a veth, whose own setting changes nothing: its peer's decides.
    veth: Option<String>,
}

impl HiddenTags {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        let off: Vec<String> =
            self.devices.iter().map(|device| format!("`ethtool -K {device} rxvlan off`")).collect();
        let peer = self.veth.as_ref().map_or(String::new(), |veth| {
            format!(", and `txvlan off` on the other end of the veth {veth}, which decides there")
        });
        format!("{}{peer}; or attach to {} instead", off.join(", "), self.vlan)
    }
}

/// What hides tags on `link`, attached to in generic mode; `has` tells whether a device has an offload.
pub fn hidden_tags(
    link: &Link,
    links: &[Link],
    has: impl Fn(&Link, &str) -> bool,
) -> Option<HiddenTags> {
    let vlan = vlan_above(link, links)?;
    let devices: Vec<&Link> =
        receivers(link, links).into_iter().filter(|device| has(device, RX_VLAN)).collect();
    if devices.is_empty() {
        return None;
    }
    let veth = devices.iter().find(|device| device.kind.as_deref() == Some("veth"));
    Some(HiddenTags {
        vlan: vlan.name.clone(),
        veth: veth.map(|veth| veth.name.clone()),
        devices: devices.iter().map(|device| device.name.clone()).collect(),
    })
}

/// A VLAN device on `link`, or on a bridge or bond that it is a port of.
fn vlan_above<'a>(link: &Link, links: &'a [Link]) -> Option<&'a Link> {
    let mut at = Some(link);
    // Masters do not form circles; the bound holds whatever the kernel lists.
    for _ in 0..links.len() {
        let index = at?.index;
        let vlan = links.iter().find(|l| l.vlan_id.is_some() && l.parent == Some(index));
        if vlan.is_some() {
            return vlan;
        }
        let master = at?.master;
        at = links.iter().find(|l| Some(l.index) == master);
    }
    None
}

/// The devices that receive frames for `link`: its ports, or itself.
fn receivers<'a>(link: &'a Link, links: &'a [Link]) -> Vec<&'a Link> {
    let ports: Vec<&Link> = links.iter().filter(|l| l.master == Some(link.index)).collect();
    if ports.is_empty() { vec![link] } else { ports }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.into(),
            mac: [2; 6],
            ethernet: true,
            loopback: false,
            mtu: 1500,
            up: true,
            running: true,
            kind: None,
            parent: None,
            vlan_id: None,
            master: None,
            rx_queues: 1,
            tx_queues: 1,
            xdp: None,
        }
    }

    fn vlan(index: u32, name: &str, parent: u32) -> Link {
        Link { parent: Some(parent), vlan_id: Some(100), ..link(index, name) }
    }

    /// What hides tags of `name`, where the devices in `on` have the offload.
    fn of(name: &str, links: &[Link], on: &[&str]) -> Option<(String, Vec<String>)> {
        let link = links.iter().find(|l| l.name == name).expect("listed");
        let has = |l: &Link, offload: &str| offload == RX_VLAN && on.contains(&l.name.as_str());
        hidden_tags(link, links, has).map(|hidden| (hidden.vlan, hidden.devices))
    }

    #[test]
    fn tags_are_hidden_where_an_offload_meets_vlans() {
        let found = |vlan: &str, devices: &[&str]| {
            Some((vlan.to_owned(), devices.iter().map(ToString::to_string).collect()))
        };
        let plain = [link(2, "eth0"), link(3, "eth1"), vlan(4, "eth0.100", 2)];
        assert_eq!(of("eth0", &plain, &["eth0"]), found("eth0.100", &["eth0"]));
        assert_eq!(of("eth0", &plain, &[]), None, "the frame keeps its tag");
        assert_eq!(of("eth1", &plain, &["eth0", "eth1"]), None, "no tags are expected");
        assert_eq!(of("eth0.100", &plain, &["eth0", "eth0.100"]), None, "the tag is off for good");

        // A bond's ports take the tags off, whatever the bond says of itself.
        let port = |index, name| Link { master: Some(2), ..link(index, name) };
        let bond = [link(2, "bond0"), port(3, "eth0"), port(4, "eth1"), vlan(5, "bond0.100", 2)];
        let on = ["bond0", "eth0", "eth1"];
        assert_eq!(of("bond0", &bond, &on), found("bond0.100", &["eth0", "eth1"]));
        assert_eq!(of("bond0", &bond, &["eth1"]), found("bond0.100", &["eth1"]));
        assert_eq!(of("bond0", &bond, &["bond0"]), None);
        assert_eq!(of("eth0", &bond, &on), found("bond0.100", &["eth0"]));
    }

    #[test]
    fn the_remedy_names_each_device() {
        let veth = Link { kind: Some("veth".into()), ..link(2, "eth0") };
        let links = [veth, vlan(3, "eth0.100", 2)];
        let hidden = hidden_tags(&links[0], &links, |_, _| true).expect("hidden");
        let remedy = hidden.remedy();
        for part in ["`ethtool -K eth0 rxvlan off`", "`txvlan off` on the other end", "eth0.100"] {
            assert!(remedy.contains(part), "{remedy}");
        }
    }
}
