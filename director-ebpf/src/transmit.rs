//! Stage 7: out of the interface the packet came from, or another? Previous: `next_hop`; next:
//! `flow_table::record`. Reads TX_PORTS.

use director_common::verdict::{DropReason, Verdict};

use crate::{constants, maps, next_hop::Hop};

/// Says where the frame leaves. A redirect is set up here and carried out by the driver when the
/// program ends, so that an interface which is not there is met before the frame changes.
#[inline(always)]
pub fn choose(hop: &Hop) -> Result<Verdict, DropReason> {
    if hop.same_interface {
        return Ok(Verdict::Tx);
    }
    // Nothing leaves a simulation, and its interfaces need not exist.
    if constants::simulate() {
        return Ok(Verdict::Redirect);
    }
    match maps::TX_PORTS.redirect(hop.ifindex, 0) {
        Ok(_) => Ok(Verdict::Redirect),
        Err(_) => Err(DropReason::NoInterface),
    }
}
