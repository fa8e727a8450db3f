//! How often a CPU did something in the current tick of the flow table's clock (67 ms).

use director_common::tunables::Ticks;

/// The value of a per-CPU map.
#[repr(C)]
pub struct TickCount {
    /// The tick that `count` belongs to: [`Ticks`].
    pub tick: u32,
    /// Times in it.
    pub count: u32,
}

impl TickCount {
    /// The count of the tick `now`, which begins at 0.
    #[inline(always)]
    pub fn at(&mut self, now: Ticks) -> &mut u32 {
        if self.tick != now.0 {
            self.tick = now.0;
            self.count = 0;
        }
        &mut self.count
    }
}
