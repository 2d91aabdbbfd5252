//! Numbers for simulations: the same for the same seed, so that a failure can be repeated.

/// Gives numbers below its argument. Knuth's MMIX generator, of which the upper bits are good.
pub fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    }
}
