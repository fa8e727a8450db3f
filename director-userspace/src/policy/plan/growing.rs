//! Plans for maps that can be made larger.

use super::{Capacity, Desired, Plan, PlanError, View, diff};

/// As [`diff`], for maps that can be made larger, up to `most`: the plan, and the capacity that it
/// needs, which is `observed`'s own if that suffices.
///
/// # Errors
///
/// [`PlanError::Full`] if not even `most` suffices, and as [`diff`].
pub fn diff_growing<V: View>(
    observed: &V,
    desired: &Desired,
    now_ns: u64,
    most: Capacity,
) -> Result<(Plan, Capacity), PlanError> {
    let mut capacity = observed.capacity();
    let mut result = diff(observed, desired, now_ns);
    // Room for the present and the desired entries always suffices; much of it is free afterwards.
    let larger = |there: usize, wanted: usize, most: u32| {
        let need = u64::try_from(there + wanted).unwrap_or(u64::MAX);
        u32::try_from(need + need / 8 + 64).unwrap_or(u32::MAX).min(most)
    };
    loop {
        match result {
            Err(PlanError::Full { what: "backends", .. }) if capacity.backends < most.backends => {
                let taken =
                    (1..observed.capacity().backends).filter(|n| observed.is_taken(*n)).count();
                let wanted = desired.services.iter().map(|service| service.backends.len()).sum();
                capacity.backends = larger(taken, wanted, most.backends).max(capacity.backends + 1);
            }
            Err(PlanError::Full { what: "rings", .. }) if capacity.rings < most.rings => {
                let there = observed.capacity().rings as usize - observed.free_rings().len();
                capacity.rings =
                    larger(there, desired.services.len(), most.rings).max(capacity.rings + 1);
            }
            result => return Ok((result?, capacity)),
        }
        result = diff(&observed.grown(capacity), desired, now_ns);
    }
}
