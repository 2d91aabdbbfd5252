//! `libmpicc-proxy.so`: loaded into make and everything below it, and into remote compilers.
#![cfg_attr(not(test), no_std)]

mod calls;
mod exec;
mod hook;
mod path;
mod runtime;
mod sys;
mod table;
mod variadic;
mod vfs;
mod view;
