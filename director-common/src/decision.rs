//! The decision about one packet, for `simulate` and tests: written only by a program that was
//! loaded to record it.

use crate::backend::BackendRef;

/// Whether the packet's flow was in the flow table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Connection {
    /// The packet has no flow, or none of a service; or its flow is not in the flow table and was not
    /// recorded: the ring alone places its packets.
    None = 0,
    /// Scheduled by this packet, and recorded if the packet is forwarded.
    New = 1,
    /// Found in the flow table.
    Known = 2,
}

impl Connection {
    /// The variant with this number.
    pub const fn from_u32(number: u32) -> Self {
        match number {
            1 => Self::New,
            2 => Self::Known,
            _ => Self::None,
        }
    }

    /// As printed: `none`, `new`, `known`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::New => "new",
            Self::Known => "known",
        }
    }
}

/// The decision about one packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// [`crate::verdict::Verdict::code`].
    pub verdict: u32,
    /// The backend it was sent to, if any.
    pub backend: BackendRef,
    /// Slot of the service plus one; 0: no service.
    pub service: u32,
    /// [`Connection`].
    pub connection: u32,
}
