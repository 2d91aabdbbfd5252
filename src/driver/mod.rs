//! What a compiler command line means.

use mpicc_proxy_abi::driver::DriverName;
use std::io;

#[derive(Debug)]
pub enum Verdict {
    Local(&'static str),
}

pub fn classify(_: DriverName, _: &[Vec<u8>], _: &mut dyn FnMut(&[u8]) -> io::Result<Vec<u8>>) -> Verdict {
    Verdict::Local("stub")
}

pub fn explain_text(verdict: &Verdict) -> String {
    let Verdict::Local(reason) = verdict;
    format!("local ({reason})")
}

pub fn explain_json(verdict: &Verdict) -> serde_json::Value {
    let Verdict::Local(reason) = verdict;
    serde_json::json!({"verdict": "local", "reason": reason})
}
