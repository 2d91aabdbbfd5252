//! One rank of the MPI job: the dispatcher on rank 0, a worker on the others. The only program that links MPI.

use anyhow::{Context, Result};
use clap::Parser;
use mpicc_proxy::link::Link;
use mpicc_proxy::paths::{self, Installation};
use mpicc_proxy::ranks::RankOptions;
use mpicc_proxy::{dispatcher, worker};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::process::ExitCode;

/// A rank of mpicc-proxy; started through `mpicc-proxy run` or `mpiexec -n N mpicc-proxy dispatch`.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    options: RankOptions,

    /// Say what this rank sees of the job and its host, and be gone after so many seconds (`doctor` asks)
    #[arg(long, hide = true, value_name = "SECONDS")]
    probe: Option<u32>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.probe {
        Some(patience_s) => worker::probe::run(patience_s),
        None => run(&arguments.options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mpicc-proxy-rank: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &RankOptions) -> Result<()> {
    // `make -j` connects as many clients as it has sources, and a worker has some for every slot.
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    let link = Link::start()?;
    if link.rank() == 0 {
        let socket = options.socket();
        paths::prepare_socket_directory(&socket)?;
        dispatcher::run(
            link,
            &dispatcher::Options {
                socket,
                ready_file: options.ready_file.clone(),
                history: options.history(),
                local_jobs: options.local_jobs,
                events: options.events(),
                session: options.session.clone(),
            },
        )
    } else {
        let library = Installation::of_this_program()?.library().context("cannot find the preload library")?;
        worker::run(link, worker::Options { slots: options.slots, store_bytes: options.store_bytes, library })
    }
}
