//! XDP programs attached by netlink: they stay with the device, without a link to pin, until they
//! are detached or the device is removed.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use rtnetlink::{
    LinkMessageBuilder, LinkUnspec,
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkXdp},
    },
};

use super::{NetError, Netlink, failed};

/// Refuses to replace a program that is there already (linux/if_link.h).
const UPDATE_IF_NOEXIST: u32 = 1;
/// In the driver (linux/if_link.h).
const DRIVER_MODE: u32 = 1 << 2;

impl Netlink {
    /// Attaches an XDP program to an interface in native mode, to stay with it. Refused if it has
    /// a program already.
    ///
    /// # Errors
    /// [`NetError::System`]; "Device or resource busy" means that there is a program.
    pub async fn attach_xdp(&self, index: u32, program: BorrowedFd<'_>) -> Result<(), NetError> {
        let mut message = LinkMessageBuilder::<LinkUnspec>::new().index(index).build();
        message.attributes.push(LinkAttribute::Xdp(vec![
            LinkXdp::Fd(program.as_raw_fd()),
            LinkXdp::Flags(UPDATE_IF_NOEXIST | DRIVER_MODE),
        ]));
        self.change(RouteNetlinkMessage::SetLink(message), 0)
            .await
            .map_err(|e| failed(format!("attach an XDP program to interface {index}"), e))
    }
}
