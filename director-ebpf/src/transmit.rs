//! Stage 8: out of the interface the packet came from, or another. Previous: `forward`; next:
//! `flow_table::record`. Reads TX_PORTS.

use director_common::verdict::{DropReason, Verdict};

use crate::{constants, maps, next_hop::Hop};

/// Sets up where the frame, which has been rewritten, leaves.
#[inline(always)]
pub fn send(hop: &Hop) -> Result<Verdict, DropReason> {
    if hop.same_interface {
        return Ok(Verdict::Tx);
    }
    // Nothing leaves a simulation, and its interfaces need not exist.
    if !constants::mode().has_interfaces() {
        return Ok(Verdict::Redirect);
    }
    match maps::TX_PORTS.redirect(hop.ifindex, 0) {
        Ok(_) => Ok(Verdict::Redirect),
        Err(_) => Err(DropReason::NoInterface),
    }
}
