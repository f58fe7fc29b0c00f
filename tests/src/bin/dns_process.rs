//! `dns --run-dir DIR` of the `privnet` binary and nothing else of it, so that the tests of the DNS room need that room
//! alone.
#![forbid(unsafe_code)]

use std::path::Path;

use anyhow::bail;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["dns", "--run-dir", run_dir] => privnet::dns::serve_process(Path::new(run_dir)),
        _ => bail!("unknown arguments {arguments:?}"),
    }
}
