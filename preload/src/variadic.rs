//! `execl`, `execle` and `execlp` take as many arguments as the caller likes. Stable Rust cannot define such a function,
//! so these three are a few instructions that lay the argument registers down in memory and hand over two addresses.
//! Knows the calling convention and nothing about exec.

use core::ffi::c_char;

/// Argument registers of the C calling convention.
#[cfg(target_arch = "x86_64")]
const REGISTERS: usize = 6;
#[cfg(target_arch = "aarch64")]
const REGISTERS: usize = 8;

/// Body of a naked `extern "C" fn`: calls `$handler(registers, stack)`, an
/// `unsafe extern "C" fn(registers: *const usize, stack: *const usize) -> c_int`, and returns what it returns.
#[cfg(target_arch = "x86_64")]
macro_rules! shim {
    ($handler:path) => {
        core::arch::naked_asm!(
            // 6 registers, and 8 bytes so that the stack is aligned to 16 at the call.
            "sub rsp, 56",
            "mov [rsp], rdi",
            "mov [rsp + 8], rsi",
            "mov [rsp + 16], rdx",
            "mov [rsp + 24], rcx",
            "mov [rsp + 32], r8",
            "mov [rsp + 40], r9",
            "mov rdi, rsp",
            // Behind what we laid down and the return address.
            "lea rsi, [rsp + 64]",
            "call {handler}",
            "add rsp, 56",
            "ret",
            handler = sym $handler,
        )
    };
}

#[cfg(target_arch = "aarch64")]
macro_rules! shim {
    ($handler:path) => {
        core::arch::naked_asm!(
            "stp x29, x30, [sp, #-80]!",
            "mov x29, sp",
            "stp x0, x1, [sp, #16]",
            "stp x2, x3, [sp, #32]",
            "stp x4, x5, [sp, #48]",
            "stp x6, x7, [sp, #64]",
            "add x0, sp, #16",
            "add x1, sp, #80",
            "bl {handler}",
            "ldp x29, x30, [sp], #80",
            "ret",
            handler = sym $handler,
        )
    };
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("mpicc-proxy: the preload library knows x86-64 and aarch64; other machines need a shim here");

pub(crate) use shim;

/// The arguments of one variadic call, in order.
#[derive(Clone, Copy, Debug)]
pub struct Arguments {
    registers: *const usize,
    stack: *const usize,
}

impl Arguments {
    /// # Safety
    /// The two addresses are those that [`shim!`] passes, and the call has not returned.
    pub unsafe fn new(registers: *const usize, stack: *const usize) -> Arguments {
        Arguments { registers, stack }
    }

    /// # Safety
    /// The caller passed more than `index` arguments, and that one is a pointer.
    pub unsafe fn get(&self, index: usize) -> *const c_char {
        let slot = if index < REGISTERS {
            // SAFETY: the shim laid down all registers.
            unsafe { self.registers.add(index) }
        } else {
            // SAFETY: promised by the caller; further arguments follow each other on the stack.
            unsafe { self.stack.add(index - REGISTERS) }
        };
        // SAFETY: as above.
        unsafe { *slot as *const c_char }
    }
}
