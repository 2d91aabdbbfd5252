//! `libmpicc-proxy.so`: loaded into make and everything below it, and into remote compilers.
//!
//! * Build mode ([`exec`]): an exec of a compiler driver becomes an exec of the client; nothing else changes.
//! * Worker mode ([`vfs`]): a remote compiler sees the head's file tree.
//!
//! [`table`] lists the libc functions we stand in for, [`hook`] makes them, [`start`] decides the mode. Only libc is
//! linked: std costs every process of a build +52 % instructions.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(test, allow(dead_code))]

mod calls;
mod elf;
mod entries;
mod env;
mod exec;
mod fixed;
mod hook;
mod keep;
mod leaf;
mod loader;
mod path;
mod runtime;
mod sanitizer;
mod start;
mod step;
mod sys;
mod table;
mod target;
mod variadic;
mod vfs;
mod view;
