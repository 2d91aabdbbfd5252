#![cfg_attr(not(test), no_std)]
#[cfg(not(test))]
#[panic_handler]
fn p(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
