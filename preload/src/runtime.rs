//! What a library without std owes to the compiler. Nothing here is exported and nothing is imported for it: each
//! imported symbol costs every process of the build about 700 instructions at load.

/// A panic is a bug of ours; there is nobody to report it to. Hooks are written so that none can happen.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: ends the process by SIGILL or SIGTRAP, as `abort` would by SIGABRT.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        core::arch::asm!("ud2", options(noreturn, nomem, nostack));
        #[cfg(target_arch = "aarch64")]
        core::arch::asm!("brk #1", options(noreturn, nomem, nostack));
    }
}

// The prebuilt `core` refers to std's unwinding routine. Nothing unwinds here, so the address is never called; hidden,
// because a global one would be found by Rust programs that load us.
#[cfg(not(test))]
core::arch::global_asm!(".hidden rust_eh_personality", ".globl rust_eh_personality", "rust_eh_personality:");
