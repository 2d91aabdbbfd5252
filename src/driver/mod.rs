//! What a compiler command line means.
pub mod toolchain;
