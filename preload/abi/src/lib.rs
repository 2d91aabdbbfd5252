//! What the preload library and the mpicc-proxy programs agree on, and nothing else: environment names, driver
//! names, and the `repr(C)` records of the memory they share. No allocation, no system calls, no policy.
//!
//! [`VERSION`] changes with every layout or meaning; both sides refuse another one.
#![no_std]

pub mod driver;
pub mod env;
pub mod listing;
pub mod loader;
pub mod miss;
pub mod socket;
pub mod step;
pub mod table;
pub mod task;

/// Version of everything in this crate. A process under the library reports itself as "active" only when the
/// version in the task page equals its own, so a stale library can never vouch for a compile.
pub const VERSION: u32 = 1;

/// File name of the preload library, as documented to users.
pub const LIBRARY_NAME: &[u8] = b"libmpicc-proxy.so";

/// File name of the program that stands in for one intercepted compiler driver.
pub const CLIENT_NAME: &[u8] = b"mpicc-proxy-client";

/// Longest path, in bytes without the final NUL, that the library handles; a longer one stays native.
pub const PATH_BYTES_MAX: usize = 4095;
