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

// The compiler expresses copies and comparisons as calls of these five. Libc has them, at the price of an import each;
// paths and environment strings are short, so plain loops do. Hidden: they stay ours alone. In assembly, because the
// compiler turns such loops in Rust into calls of the very functions.
#[cfg(all(not(test), target_arch = "x86_64"))]
core::arch::global_asm!(
    ".macro hidden name",
    ".hidden \\name",
    ".globl \\name",
    ".type \\name, @function",
    "\\name:",
    ".endm",
    "hidden memmove",
    "mov rax, rdi",
    "sub rax, rsi",
    "cmp rax, rdx",
    // Overlapping with the target behind the source: from the end.
    "jb 2f",
    "hidden memcpy",
    "mov rax, rdi",
    "mov rcx, rdx",
    "rep movsb",
    "ret",
    "2: mov rax, rdi",
    "3: test rdx, rdx",
    "je 4f",
    "dec rdx",
    "mov cl, [rsi + rdx]",
    "mov [rdi + rdx], cl",
    "jmp 3b",
    "4: ret",
    "hidden memset",
    "mov r8, rdi",
    "mov eax, esi",
    "mov rcx, rdx",
    "rep stosb",
    "mov rax, r8",
    "ret",
    "hidden memcmp",
    "hidden bcmp",
    // Eight equal bytes at a time, then to the first difference.
    "2: cmp rdx, 8",
    "jb 3f",
    "mov rax, [rdi]",
    "cmp rax, [rsi]",
    "jne 3f",
    "add rdi, 8",
    "add rsi, 8",
    "sub rdx, 8",
    "jmp 2b",
    "3: test rdx, rdx",
    "je 4f",
    "movzx eax, byte ptr [rdi]",
    "movzx ecx, byte ptr [rsi]",
    "inc rdi",
    "inc rsi",
    "dec rdx",
    "sub eax, ecx",
    "je 3b",
    "ret",
    "4: xor eax, eax",
    "ret",
    "hidden strlen",
    "mov rax, rdi",
    "2: cmp byte ptr [rax], 0",
    "je 3f",
    "inc rax",
    "jmp 2b",
    "3: sub rax, rdi",
    "ret",
    ".purgem hidden",
);

#[cfg(all(not(test), target_arch = "aarch64"))]
core::arch::global_asm!(
    ".macro hidden name",
    ".hidden \\name",
    ".globl \\name",
    ".type \\name, %function",
    "\\name:",
    ".endm",
    "hidden memmove",
    "sub x3, x0, x1",
    "cmp x3, x2",
    // Overlapping with the target behind the source: from the end.
    "b.lo 3f",
    "hidden memcpy",
    "mov x3, x0",
    "2: cbz x2, 4f",
    "ldrb w4, [x1], #1",
    "strb w4, [x3], #1",
    "sub x2, x2, #1",
    "b 2b",
    "3: cbz x2, 4f",
    "sub x2, x2, #1",
    "ldrb w4, [x1, x2]",
    "strb w4, [x0, x2]",
    "b 3b",
    "4: ret",
    "hidden memset",
    "mov x3, x0",
    "2: cbz x2, 3f",
    "strb w1, [x3], #1",
    "sub x2, x2, #1",
    "b 2b",
    "3: ret",
    "hidden memcmp",
    "hidden bcmp",
    "2: cbz x2, 3f",
    "ldrb w3, [x0], #1",
    "ldrb w4, [x1], #1",
    "sub x2, x2, #1",
    "subs w3, w3, w4",
    "b.eq 2b",
    "mov w0, w3",
    "ret",
    "3: mov w0, #0",
    "ret",
    "hidden strlen",
    "mov x1, x0",
    "2: ldrb w2, [x1], #1",
    "cbnz w2, 2b",
    "sub x0, x1, x0",
    "sub x0, x0, #1",
    "ret",
    ".purgem hidden",
);
