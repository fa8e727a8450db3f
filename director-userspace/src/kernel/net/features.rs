//! Which kinds of XDP a driver supports, from the generic netlink family "netdev" (kernel 6.3).
//!
//! One request and one answer of three attributes, so they are parsed here rather than by one more
//! crate. Numbers are native-endian; their meaning is that of linux/netdev.h and linux/genetlink.h.

use std::io;

use rtnetlink::sys::{Socket, SocketAddr};

use super::{NetError, Netlink, failed};

const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
/// A netlink header and a generic netlink header.
const HEADERS: usize = 16 + 4;

/// What a driver supports of native XDP. Without any, only generic XDP works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpFeatures(u64);

impl XdpFeatures {
    /// From the bits of enum netdev_xdp_act in linux/netdev.h.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Runs programs in the driver: XDP_ABORTED, DROP, PASS and TX.
    pub fn basic(self) -> bool {
        self.0 & 1 != 0
    }

    /// Redirects packets to other devices.
    pub fn redirect(self) -> bool {
        self.0 & 1 << 1 != 0
    }

    /// Sends packets that are redirected to it.
    pub fn redirect_target(self) -> bool {
        self.0 & 1 << 2 != 0
    }

    /// Takes packets of more than one buffer (jumbo frames).
    pub fn multi_buffer(self) -> bool {
        self.0 & 1 << 5 != 0
    }
}

impl Netlink {
    /// What an interface's driver reports that it supports of XDP. None if this kernel (before 6.3)
    /// does not report it.
    ///
    /// # Errors
    /// [`NetError::NoSuchIndex`], [`NetError::System`].
    pub fn xdp_features(&self, link_index: u32) -> Result<Option<XdpFeatures>, NetError> {
        let mut socket = self.generic.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match read_features(&mut socket, link_index) {
            Ok(features) => Ok(features),
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => {
                Err(NetError::NoSuchIndex { index: link_index })
            }
            Err(e) => Err(failed(format!("read the XDP features of interface {link_index}"), e)),
        }
    }
}

fn read_features(socket: &mut Socket, link_index: u32) -> io::Result<Option<XdpFeatures>> {
    let name = attribute(CTRL_ATTR_FAMILY_NAME, b"netdev\0");
    let family = match query(socket, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, &name) {
        Ok(answer) => find(&answer, CTRL_ATTR_FAMILY_ID).and_then(|v| v.get(..2)?.try_into().ok()),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => None,
        Err(e) => return Err(e),
    };
    let Some(family) = family.map(u16::from_ne_bytes) else {
        return Ok(None);
    };
    let index = attribute(NETDEV_A_DEV_IFINDEX, &link_index.to_ne_bytes());
    let answer = query(socket, family, NETDEV_CMD_DEV_GET, &index)?;
    let features =
        find(&answer, NETDEV_A_DEV_XDP_FEATURES).and_then(|v| v.get(..8)?.try_into().ok());
    Ok(features.map(u64::from_ne_bytes).map(XdpFeatures::from_bits))
}

/// Sends one request and returns the attributes of its answer.
fn query(socket: &mut Socket, family: u16, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
    let mut request = Vec::with_capacity(HEADERS + attributes.len());
    request.extend(((HEADERS + attributes.len()) as u32).to_ne_bytes());
    request.extend(family.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 8]); // sequence and port: the kernel fills them in; one request at a time
    request.extend([command, 1, 0, 0]);
    request.extend(attributes);
    socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    payload(answer)
}

/// The attributes of an answer, or the error that it carries.
pub(super) fn payload(mut answer: Vec<u8>) -> io::Result<Vec<u8>> {
    let short = || io::Error::other("the kernel's answer is truncated");
    let kind = answer.get(4..6).ok_or_else(short)?;
    if kind == NLMSG_ERROR.to_ne_bytes() {
        let code = answer.get(16..20).and_then(|v| v.try_into().ok()).ok_or_else(short)?;
        // Errors are negative, and the least number has no positive counterpart.
        return Err(io::Error::from_raw_os_error(i32::from_ne_bytes(code).saturating_neg()));
    }
    if answer.len() < HEADERS {
        return Err(short());
    }
    Ok(answer.split_off(HEADERS))
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut attribute = Vec::with_capacity(4 + value.len() + 3);
    attribute.extend((4 + value.len() as u16).to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// The value of the first attribute of a kind.
pub(super) fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let header: [u8; 4] = attributes.get(..4)?.try_into().ok()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = attributes.get(4..length)?;
        if u16::from_ne_bytes([header[2], header[3]]) == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_past_others_and_padding() {
        let mut bytes = attribute(7, b"abcde");
        bytes.extend(attribute(3, &5u64.to_ne_bytes()));
        assert_eq!(find(&bytes, 3), Some(&5u64.to_ne_bytes()[..]));
        assert_eq!(find(&bytes, 7), Some(&b"abcde"[..]));
        assert_eq!(find(&bytes, 9), None);
        assert_eq!(find(&bytes[..bytes.len() - 1], 3), None);
        assert_eq!(find(&[0; 8], 1), None);
    }

    #[test]
    fn an_error_message_becomes_its_errno() {
        let mut answer = vec![0; 36];
        answer[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        answer[16..20].copy_from_slice(&(-libc::ENODEV).to_ne_bytes());
        let error = payload(answer.clone()).expect_err("carries an errno");
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        answer[16..20].copy_from_slice(&i32::MIN.to_ne_bytes());
        payload(answer).expect_err("carries a number that is no errno");
    }

    #[test]
    fn features_by_bit() {
        let veth = XdpFeatures(0b110_0011);
        assert!(veth.basic() && veth.redirect() && veth.multi_buffer());
        assert!(!veth.redirect_target());
        assert!(!XdpFeatures(0).basic());
    }
}
