//! mpicc-proxy: compile on all ranks of an MPI job.
//!
//! **Invariant: a build under mpicc-proxy may be slower, never different.** Objects, dependency files, diagnostics and
//! exit codes are those of the compiler run alone. Every failure of ours ends in the client running the real driver
//! itself, with a reason in the log.
//!
//! One compile, as data: make's child → the preload library's exec hook → [`client`]: [`driver`] says whether this
//! command line is a compile → one request over a Unix socket → [`dispatcher`] (MPI rank 0) → a [`worker`] rank runs
//! the real driver under the preload library, which shows it the head's file tree → outputs, diagnostics and status
//! travel back → the client publishes the outputs and exits with the compiler's status.

pub mod batch;
#[cfg(feature = "command")]
pub mod cli;
pub mod client;
pub mod comeback;
pub mod connection;
#[cfg(feature = "ranks")]
pub mod dispatcher;
pub mod doctor;
pub mod doorbell;
pub mod driver;
pub mod environment;
pub mod error;
pub mod event;
pub mod free_memory;
pub mod identity;
pub mod ids;
pub mod jobs;
pub mod jobserver;
pub mod journal;
pub mod keeper;
pub mod launcher;
#[cfg(feature = "ranks")]
pub mod link;
#[cfg(feature = "command")]
pub mod manual;
pub mod masquerade;
pub mod paths;
pub mod pidfd;
pub mod private_folder;
pub mod probe;
pub mod publish;
pub mod ranks;
pub mod report;
pub mod rusage;
pub mod script;
pub mod session;
pub mod sets;
pub mod signals;
pub mod size;
pub mod status;
pub mod stdin;
pub mod times;
#[cfg(feature = "command")]
pub mod top;
pub mod upkeep;
pub mod viewpoint;
pub mod watchdog;
pub mod wire;
#[cfg(feature = "ranks")]
pub mod worker;
