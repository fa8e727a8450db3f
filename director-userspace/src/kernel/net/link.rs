//! Interfaces: listing them, and creating those of a lab.

use std::os::fd::AsRawFd as _;

use rtnetlink::{
    LinkBridge, LinkMacVlan, LinkMessageBuilder, LinkUnspec,
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        RouteNetlinkMessage,
        link::{
            InfoData, InfoKind, InfoVeth, InfoVlan, LinkAttribute, LinkFlags, LinkInfo,
            LinkLayerType, LinkMessage, LinkXdp, MacVlanMode, XdpAttached as AttachedMode,
        },
    },
};

use super::{NetError, NetNs, Netlink, failed};

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number in this network namespace.
    pub index: u32,
    /// Its name in this network namespace.
    pub name: String,
    /// Its MAC address; zeros where it has none (loopback, tunnels).
    pub mac: [u8; 6],
    /// Whether frames on it have an Ethernet header. Loopback does not count.
    pub ethernet: bool,
    /// Whether it is the loopback interface.
    pub loopback: bool,
    /// Largest layer-3 packet, in bytes.
    pub mtu: u32,
    /// Switched on by the administrator.
    pub up: bool,
    /// Able to carry traffic: up, and with a carrier.
    pub running: bool,
    /// The kind of a virtual device (veth, bridge, vlan, bond, ...); none for hardware.
    pub kind: Option<String>,
    /// The device below (of a VLAN device or macvlan), if it is in this namespace.
    pub parent: Option<u32>,
    /// The tag of a VLAN device.
    pub vlan_id: Option<u16>,
    /// The bridge or bond that this is a port of.
    pub master: Option<u32>,
    /// Receive queues.
    pub rx_queues: u32,
    /// Transmit queues.
    pub tx_queues: u32,
    /// The XDP program on it.
    pub xdp: Option<XdpAttached>,
}

/// An XDP program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpAttached {
    /// The program's id, as in `bpftool prog show id`.
    pub prog_id: u32,
    /// Where it runs.
    pub mode: XdpMode,
}

/// Where an XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the network stack, on any device, slowly.
    Generic,
    /// In the NIC itself.
    Offloaded,
    /// In more than one of these places.
    Several,
}

/// One end of a veth pair to be created.
#[derive(Clone, Copy, Debug)]
pub struct LinkEnd<'a> {
    /// Its name.
    pub name: &'a str,
    /// The namespace to put it in; none for that of the connection.
    pub netns: Option<&'a NetNs>,
    /// Its MAC address; none lets the kernel choose.
    pub mac: Option<[u8; 6]>,
}

impl Netlink {
    /// All interfaces of this namespace.
    ///
    /// # Errors
    /// [`NetError::System`].
    pub async fn links(&self) -> Result<Vec<Link>, NetError> {
        let answer = self
            .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))
            .await
            .map_err(|e| failed("list the interfaces", e))?;
        Ok(answer.into_iter().filter_map(as_link).collect())
    }

    /// The interface of this name.
    ///
    /// # Errors
    /// [`NetError::NoSuchInterface`], or [`NetError::System`].
    pub async fn link_by_name(&self, name: &str) -> Result<Link, NetError> {
        let message = LinkUnspec::new_with_name(name).build();
        let missing = || NetError::NoSuchInterface { name: name.to_owned() };
        match self.get(RouteNetlinkMessage::GetLink(message)).await {
            Ok(answer) => answer.and_then(as_link).ok_or_else(missing),
            // ERANGE: longer than any interface's name can be.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENODEV | libc::ERANGE)) => {
                Err(missing())
            }
            Err(e) => Err(failed(format!("look up interface {name}"), e)),
        }
    }

    /// The interface of this index.
    ///
    /// # Errors
    /// [`NetError::NoSuchIndex`], or [`NetError::System`].
    pub async fn link_by_index(&self, index: u32) -> Result<Link, NetError> {
        let message = LinkUnspec::new_with_index(index).build();
        match self.get(RouteNetlinkMessage::GetLink(message)).await {
            Ok(answer) => answer.and_then(as_link).ok_or(NetError::NoSuchIndex { index }),
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => {
                Err(NetError::NoSuchIndex { index })
            }
            Err(e) => Err(failed(format!("look up interface {index}"), e)),
        }
    }

    /// Creates a pair of veth devices, each in its namespace. Both are down.
    ///
    /// # Errors
    /// [`NetError::System`]; "File exists" means that a name is taken.
    pub async fn create_veth(&self, a: LinkEnd<'_>, b: LinkEnd<'_>) -> Result<(), NetError> {
        let end = |of: LinkEnd<'_>| {
            let mut message = LinkMessageBuilder::<LinkUnspec>::new().name(of.name);
            if let Some(netns) = of.netns {
                message = message.setns_by_fd(netns.as_raw_fd());
            }
            if let Some(mac) = of.mac {
                message = message.address(mac.to_vec());
            }
            message.build()
        };
        let mut message = end(a);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(end(b)))),
        ]));
        self.new_link(message, format!("create the veth pair {} and {}", a.name, b.name)).await
    }

    /// Creates a bridge. It is down.
    ///
    /// # Errors
    /// [`NetError::System`]; "File exists" means that the name is taken.
    pub async fn create_bridge(&self, name: &str) -> Result<(), NetError> {
        self.new_link(LinkBridge::new(name).build(), format!("create the bridge {name}")).await
    }

    /// Creates a macvlan in bridge mode on another interface. It is down.
    ///
    /// # Errors
    /// [`NetError::System`]; "File exists" means that the name is taken.
    pub async fn create_macvlan(&self, name: &str, parent: u32) -> Result<(), NetError> {
        let message = LinkMacVlan::new(name, parent, MacVlanMode::Bridge).build();
        self.new_link(message, format!("create the macvlan {name}")).await
    }

    /// Removes an interface; of a veth pair, both.
    ///
    /// # Errors
    /// [`NetError::System`].
    pub async fn delete_link(&self, index: u32) -> Result<(), NetError> {
        let message = LinkUnspec::new_with_index(index).build();
        self.change(RouteNetlinkMessage::DelLink(message), 0)
            .await
            .map_err(|e| failed(format!("delete interface {index}"), e))
    }

    /// Switches an interface on or off.
    ///
    /// # Errors
    /// [`NetError::System`].
    pub async fn set_up(&self, index: u32, up: bool) -> Result<(), NetError> {
        let link = LinkUnspec::new_with_index(index);
        let (message, word) = if up { (link.up(), "up") } else { (link.down(), "down") };
        self.set_link(message, format!("set interface {index} {word}")).await
    }

    /// Sets the largest layer-3 packet, in bytes.
    ///
    /// # Errors
    /// [`NetError::System`]; "Invalid argument" means that the driver has another limit.
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), NetError> {
        let message = LinkUnspec::new_with_index(index).mtu(mtu);
        self.set_link(message, format!("set the MTU of interface {index} to {mtu}")).await
    }

    /// Makes an interface a port of a bridge or bond, or (`None`) of nothing.
    ///
    /// # Errors
    /// [`NetError::System`].
    pub async fn set_master(&self, index: u32, master: Option<u32>) -> Result<(), NetError> {
        let message = LinkUnspec::new_with_index(index).controller(master.unwrap_or(0));
        self.set_link(message, format!("change the bridge of interface {index}")).await
    }

    /// Sets the MAC address.
    ///
    /// # Errors
    /// [`NetError::System`].
    pub async fn set_mac(&self, index: u32, mac: [u8; 6]) -> Result<(), NetError> {
        let message = LinkUnspec::new_with_index(index).address(mac.to_vec());
        self.set_link(message, format!("set the MAC address of interface {index}")).await
    }

    /// Renames an interface, which must be down.
    ///
    /// # Errors
    /// [`NetError::System`].
    pub async fn rename_link(&self, index: u32, name: &str) -> Result<(), NetError> {
        let message = LinkUnspec::new_with_index(index).name(name);
        self.set_link(message, format!("rename interface {index} to {name}")).await
    }

    /// Moves an interface into another network namespace, where it arrives down and without
    /// addresses.
    ///
    /// # Errors
    /// [`NetError::System`].
    pub async fn move_link(&self, index: u32, netns: &NetNs) -> Result<(), NetError> {
        let message = LinkUnspec::new_with_index(index).setns_by_fd(netns.as_raw_fd());
        self.set_link(message, format!("move interface {index} to {}", netns.label())).await
    }

    async fn new_link(&self, message: LinkMessage, doing: String) -> Result<(), NetError> {
        self.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
            .await
            .map_err(|e| failed(doing, e))
    }

    async fn set_link(
        &self,
        message: LinkMessageBuilder<LinkUnspec>,
        doing: String,
    ) -> Result<(), NetError> {
        self.change(RouteNetlinkMessage::NewLink(message.build()), 0)
            .await
            .map_err(|e| failed(doing, e))
    }
}

fn as_link(message: RouteNetlinkMessage) -> Option<Link> {
    match message {
        RouteNetlinkMessage::NewLink(message) => Some(link_of(message)),
        _ => None,
    }
}

/// Reads one RTM_NEWLINK message.
pub(super) fn link_of(message: LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: [0; 6],
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        loopback: flags.contains(LinkFlags::Loopback),
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::Up | LinkFlags::LowerUp | LinkFlags::Running),
        kind: None,
        parent: None,
        vlan_id: None,
        master: None,
        rx_queues: 1,
        tx_queues: 1,
        xdp: None,
    };
    let mut parent_elsewhere = false;
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) => link.mac = mac.try_into().unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Link(parent) if parent != 0 => link.parent = Some(parent),
            LinkAttribute::LinkNetNsId(_) => parent_elsewhere = true,
            LinkAttribute::Controller(master) if master != 0 => link.master = Some(master),
            LinkAttribute::NumRxQueues(queues) => link.rx_queues = queues,
            LinkAttribute::NumTxQueues(queues) => link.tx_queues = queues,
            LinkAttribute::LinkInfo(infos) => read_info(&mut link, infos),
            LinkAttribute::Xdp(attributes) => link.xdp = xdp_of(&attributes),
            _ => {}
        }
    }
    // The index belongs to another namespace's numbering and would name an unrelated interface
    // here.
    if parent_elsewhere {
        link.parent = None;
    }
    link
}

fn read_info(link: &mut Link, infos: Vec<LinkInfo>) {
    for info in infos {
        match info {
            LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
            LinkInfo::Data(InfoData::Vlan(attributes)) => {
                link.vlan_id = attributes.iter().find_map(|attribute| match attribute {
                    InfoVlan::Id(id) => Some(*id),
                    _ => None,
                });
            }
            _ => {}
        }
    }
}

fn xdp_of(attributes: &[LinkXdp]) -> Option<XdpAttached> {
    let mode = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::Attached(AttachedMode::Driver) => Some(XdpMode::Native),
        LinkXdp::Attached(AttachedMode::SocketBuffer) => Some(XdpMode::Generic),
        LinkXdp::Attached(AttachedMode::Hardware) => Some(XdpMode::Offloaded),
        LinkXdp::Attached(AttachedMode::Multiple) => Some(XdpMode::Several),
        _ => None,
    })?;
    // With several programs the kernel gives no IFLA_XDP_PROG_ID; the driver's comes first.
    let prog_id = attributes
        .iter()
        .find_map(|a| if let LinkXdp::ProgId(id) = a { Some(*id) } else { None })
        .or_else(|| {
            attributes.iter().find_map(|a| match a {
                LinkXdp::HwProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) => {
                    Some(*id)
                }
                _ => None,
            })
        })?;
    Some(XdpAttached { prog_id, mode })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.attributes = attributes;
        message
    }

    #[test]
    fn a_parent_in_another_namespace_is_none() {
        let here = link_of(message(vec![LinkAttribute::Link(3)]));
        let there = link_of(message(vec![LinkAttribute::LinkNetNsId(0), LinkAttribute::Link(3)]));
        assert_eq!((here.parent, there.parent), (Some(3), None));
    }

    #[test]
    fn a_vlan_device_shows_its_tag() {
        let link = link_of(message(vec![LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vlan),
            LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(42)])),
        ])]));
        assert_eq!((link.kind.as_deref(), link.vlan_id), (Some("vlan"), Some(42)));
    }

    #[test]
    fn xdp_modes() {
        let table = [
            (vec![], None),
            (vec![LinkXdp::Attached(AttachedMode::None)], None),
            (
                vec![LinkXdp::Attached(AttachedMode::Driver), LinkXdp::ProgId(9)],
                Some(XdpAttached { prog_id: 9, mode: XdpMode::Native }),
            ),
            (
                vec![LinkXdp::ProgId(8), LinkXdp::Attached(AttachedMode::SocketBuffer)],
                Some(XdpAttached { prog_id: 8, mode: XdpMode::Generic }),
            ),
            (
                vec![
                    LinkXdp::Attached(AttachedMode::Multiple),
                    LinkXdp::DrvProgId(4),
                    LinkXdp::SkbProgId(5),
                ],
                Some(XdpAttached { prog_id: 4, mode: XdpMode::Several }),
            ),
        ];
        for (given, expected) in table {
            assert_eq!(xdp_of(&given), expected, "{given:?}");
        }
    }

    #[test]
    fn an_invalid_hardware_address_is_none() {
        let link = link_of(message(vec![LinkAttribute::Address(vec![1, 2, 3, 4])]));
        assert_eq!(link.mac, [0; 6]);
    }
}
