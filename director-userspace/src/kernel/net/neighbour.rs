//! Neighbours: which MAC address an IP address on a link has.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use rtnetlink::{
    packet_core::NLM_F_CREATE,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        neighbour::{
            NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags,
            NeighbourMessage, NeighbourState as State,
        },
    },
};
use tokio::time::sleep;

use super::{NetError, Netlink, failed};

/// Time between two lookups of a neighbour that is being resolved. A LAN answers in well under
/// this.
const POLL: Duration = Duration::from_millis(5);
/// After this long without an answer, poll less often.
const POLL_SLOWLY_AFTER: Duration = Duration::from_millis(100);

/// An entry of the kernel's neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The interface it was learned on.
    pub link_index: u32,
    /// Its IP address.
    pub ip: IpAddr,
    /// Its MAC address, once known.
    pub mac: Option<[u8; 6]>,
    /// Its reachability state.
    pub state: NeighbourState,
    /// Kept fresh by the kernel, used or not.
    pub managed: bool,
}

/// The kernel's reachability state (NUD) of a neighbour, as `ip neighbour` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighbourState {
    /// Solicited, not answered yet.
    Incomplete,
    /// Confirmed recently.
    Reachable,
    /// Known; not confirmed recently.
    Stale,
    /// Known and in use; about to be probed.
    Delay,
    /// Known and being probed.
    Probe,
    /// Did not answer.
    Failed,
    /// On a device that needs no resolution.
    NoArp,
    /// Set by an administrator.
    Permanent,
    /// No state yet.
    None,
}

impl Neighbour {
    /// The MAC address, if the kernel would send to it now.
    pub fn usable_mac(&self) -> Option<[u8; 6]> {
        use NeighbourState::{Delay, NoArp, Permanent, Probe, Reachable, Stale};
        match self.state {
            Reachable | Stale | Delay | Probe | NoArp | Permanent => self.mac,
            _ => None,
        }
    }
}

/// The result of a request to keep a neighbour fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Managed {
    /// The kernel keeps it fresh from now on.
    ByKernel,
    /// This kernel (before 5.16) can't: it probed once, and the caller must repeat the call well
    /// within the neighbour's reachable time (30 s).
    ProbedOnce,
    /// Set by an administrator and never changes; left alone.
    Permanent,
}

impl Netlink {
    /// The whole neighbour table, both families.
    ///
    /// # Errors
    /// [`NetError::System`].
    pub async fn neighbours(&self) -> Result<Vec<Neighbour>, NetError> {
        let answer = self
            .dump(RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))
            .await
            .map_err(|e| failed("list the neighbours", e))?;
        Ok(answer
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewNeighbour(message) => neighbour_of(&message),
                _ => None,
            })
            .collect())
    }

    /// The kernel's entry of one neighbour.
    ///
    /// # Errors
    /// [`NetError::System`].
    pub async fn neighbour(
        &self,
        link_index: u32,
        ip: IpAddr,
    ) -> Result<Option<Neighbour>, NetError> {
        let message = neighbour_message(link_index, ip);
        match self.get(RouteNetlinkMessage::GetNeighbour(message)).await {
            Ok(Some(RouteNetlinkMessage::NewNeighbour(message))) => Ok(neighbour_of(&message)),
            Ok(_) => Ok(None),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(failed(format!("look up neighbour {ip}"), e)),
        }
    }

    /// Makes the kernel resolve a neighbour and keep it fresh (NTF_EXT_MANAGED, kernel 5.16).
    ///
    /// # Errors
    /// [`NetError::System`] (CAP_NET_ADMIN is needed).
    pub async fn manage_neighbour(&self, link_index: u32, ip: IpAddr) -> Result<Managed, NetError> {
        if self.is_permanent(link_index, ip).await? {
            return Ok(Managed::Permanent);
        }
        // An older kernel ignores the extended flag; NTF_USE beside it keeps that harmless, where
        // an update without either would throw away the MAC address.
        self.trigger_resolution(link_index, ip, NeighbourExtFlags::Managed).await?;
        match self.neighbour(link_index, ip).await? {
            Some(neighbour) if neighbour.managed => Ok(Managed::ByKernel),
            _ => Ok(Managed::ProbedOnce),
        }
    }

    /// Stops keeping a neighbour fresh: it ages as usual.
    ///
    /// # Errors
    /// [`NetError::System`] (CAP_NET_ADMIN is needed).
    pub async fn unmanage_neighbour(&self, link_index: u32, ip: IpAddr) -> Result<(), NetError> {
        match self.neighbour(link_index, ip).await? {
            Some(neighbour) if neighbour.managed => {
                self.trigger_resolution(link_index, ip, NeighbourExtFlags::empty()).await
            }
            _ => Ok(()),
        }
    }

    /// Resolves a neighbour: starts the kernel's ARP or neighbour discovery if its MAC address is
    /// unknown, and waits for the answer. None if none came in time.
    ///
    /// # Errors
    /// [`NetError::System`] (CAP_NET_ADMIN is needed).
    pub async fn resolve_neighbour(
        &self,
        link_index: u32,
        ip: IpAddr,
        wait: Duration,
    ) -> Result<Option<[u8; 6]>, NetError> {
        let started = Instant::now();
        loop {
            let known = self.neighbour(link_index, ip).await?;
            if let Some(mac) = known.and_then(|neighbour| neighbour.usable_mac()) {
                return Ok(Some(mac));
            }
            // Incomplete: it is being solicited already. Failed: it is solicited again.
            if !known.is_some_and(|n| n.state == NeighbourState::Incomplete) {
                let managed = known.is_some_and(|n| n.managed);
                let flags =
                    if managed { NeighbourExtFlags::Managed } else { NeighbourExtFlags::empty() };
                self.trigger_resolution(link_index, ip, flags).await?;
            }
            let waited = started.elapsed();
            if waited >= wait {
                return Ok(None);
            }
            let poll = if waited < POLL_SLOWLY_AFTER { POLL } else { POLL * 5 };
            sleep(poll.min(wait - waited)).await;
        }
    }

    /// Sets a neighbour's MAC address permanently.
    ///
    /// # Errors
    /// [`NetError::System`] (CAP_NET_ADMIN is needed).
    pub async fn set_neighbour(
        &self,
        link_index: u32,
        ip: IpAddr,
        mac: [u8; 6],
    ) -> Result<(), NetError> {
        let mut message = neighbour_message(link_index, ip);
        message.header.state = State::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        self.change(
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | rtnetlink::packet_core::NLM_F_REPLACE,
        )
        .await
        .map_err(|e| failed(format!("set the MAC address of neighbour {ip}"), e))
    }

    /// Removes a neighbour. False if it was not known.
    ///
    /// # Errors
    /// [`NetError::System`] (CAP_NET_ADMIN is needed).
    pub async fn remove_neighbour(&self, link_index: u32, ip: IpAddr) -> Result<bool, NetError> {
        let message = neighbour_message(link_index, ip);
        match self.change(RouteNetlinkMessage::DelNeighbour(message), 0).await {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(e) => Err(failed(format!("remove neighbour {ip}"), e)),
        }
    }

    async fn is_permanent(&self, link_index: u32, ip: IpAddr) -> Result<bool, NetError> {
        let known = self.neighbour(link_index, ip).await?;
        Ok(known.is_some_and(|n| n.state == NeighbourState::Permanent))
    }

    /// Makes the kernel resolve a neighbour as if a packet were waiting for it.
    async fn trigger_resolution(
        &self,
        link_index: u32,
        ip: IpAddr,
        ext: NeighbourExtFlags,
    ) -> Result<(), NetError> {
        let mut message = neighbour_message(link_index, ip);
        message.header.flags = NeighbourFlags::Use;
        if !ext.is_empty() {
            message.attributes.push(NeighbourAttribute::ExtFlags(ext));
        }
        self.change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE)
            .await
            .map_err(|e| failed(format!("resolve neighbour {ip}"), e))
    }
}

fn neighbour_message(link_index: u32, ip: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.ifindex = link_index;
    message.attributes.push(NeighbourAttribute::Destination(ip.into()));
    message
}

/// Reads one RTM_NEWNEIGH or RTM_DELNEIGH message; none for those of bridges.
pub(super) fn neighbour_of(message: &NeighbourMessage) -> Option<Neighbour> {
    let (mut ip, mut mac, mut managed) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                ip = Some(IpAddr::V4(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                ip = Some(IpAddr::V6(*v6));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = bytes.as_slice().try_into().ok();
            }
            NeighbourAttribute::ExtFlags(flags) => {
                managed = flags.contains(NeighbourExtFlags::Managed);
            }
            _ => {}
        }
    }
    Some(Neighbour {
        link_index: message.header.ifindex,
        ip: ip?,
        mac,
        managed,
        state: match message.header.state {
            State::Incomplete => NeighbourState::Incomplete,
            State::Reachable => NeighbourState::Reachable,
            State::Stale => NeighbourState::Stale,
            State::Delay => NeighbourState::Delay,
            State::Probe => NeighbourState::Probe,
            State::Failed => NeighbourState::Failed,
            State::Noarp => NeighbourState::NoArp,
            State::Permanent => NeighbourState::Permanent,
            _ => NeighbourState::None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_states_that_the_kernel_sends_in_give_a_mac() {
        use NeighbourState::{
            Delay, Failed, Incomplete, NoArp, None as New, Permanent, Probe, Reachable, Stale,
        };
        let mac = Some([2, 0, 0, 0, 0, 9]);
        for (state, usable) in [
            (Incomplete, false),
            (Failed, false),
            (New, false),
            (Reachable, true),
            (Stale, true),
            (Delay, true),
            (Probe, true),
            (NoArp, true),
            (Permanent, true),
        ] {
            let ip = IpAddr::from([10, 0, 0, 9]);
            let neighbour = Neighbour { link_index: 1, ip, mac, state, managed: false };
            assert_eq!(neighbour.usable_mac(), mac.filter(|_| usable), "{state:?}");
        }
    }

    #[test]
    fn a_bridge_s_entry_is_not_a_neighbour() {
        let mut message = NeighbourMessage::default();
        message.attributes = vec![NeighbourAttribute::LinkLayerAddress(vec![2; 6])];
        assert_eq!(neighbour_of(&message), None);
    }
}
