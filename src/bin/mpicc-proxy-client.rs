//! Stands in for one intercepted compiler driver.

fn main() -> std::process::ExitCode {
    mpicc_proxy::client::main()
}
