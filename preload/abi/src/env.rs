//! The only list of environment variables of ours. None ends in `_ROOT`: Spack and CMake give that suffix a
//! meaning of their own.

/// `LD_PRELOAD`, where the dynamic linker finds the library.
pub const LD_PRELOAD: &[u8] = b"LD_PRELOAD";

/// `MPICC_PROXY=off` (or `0`) turns the library and the client into bystanders.
pub const SWITCH: &[u8] = b"MPICC_PROXY";

/// Path of the dispatcher's Unix socket.
pub const SOCKET: &[u8] = b"MPICC_PROXY_SOCKET";

/// `MPICC_PROXY_FALLBACK=forbid`: a compile meant for a rank fails instead of running locally.
pub const FALLBACK: &[u8] = b"MPICC_PROXY_FALLBACK";

/// File to which every client appends one line: verdict, reason, command.
pub const LOG: &[u8] = b"MPICC_PROXY_LOG";

/// In a step of a ninja: the id of the step, see [`crate::step`].
pub const STEP: &[u8] = b"MPICC_PROXY_STEP";

/// From the hook to the client: absolute path of the driver that was about to be executed. Never seen by a compiler.
pub const DRIVER: &[u8] = b"MPICC_PROXY_DRIVER";

/// Spack's: the package that a compile belongs to.
pub const SPACK_SHORT_SPEC: &[u8] = b"SPACK_SHORT_SPEC";

/// Present (`<abi version>`) in a remote compiler's environment: the library is in worker mode, and the table and
/// the task page are open as [`crate::task::TABLE_FD`] and [`crate::task::TASK_FD`].
pub const WORKER: &[u8] = b"MPICC_PROXY_WORKER";

/// Variables that the build-side library keeps alive in every child, whatever a tool does to its environment.
pub const KEPT: [&[u8]; 5] = [SWITCH, SOCKET, FALLBACK, LOG, STEP];

/// Variables that must not reach a compiler: they belong to the way from hook to client.
pub const INTERNAL: [&[u8]; 2] = [DRIVER, WORKER];

/// Value of [`SWITCH`] that means "do nothing".
pub fn is_off(value: &[u8]) -> bool {
    matches!(value, b"off" | b"0")
}

/// Value of [`FALLBACK`] that forbids local compiles.
pub fn is_forbid(value: &[u8]) -> bool {
    value == b"forbid"
}
