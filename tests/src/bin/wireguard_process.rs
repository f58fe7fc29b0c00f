//! `wireguard-process --run-dir DIR` of the `privnet` binary and nothing else of it, so that the tests of the WireGuard
//! room need that room alone; and `agent …`, which starts such a process and waits to be killed.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use privnet::model::PrivateKey;
use privnet::netns::Netns;
use privnet::wireguard::{OffloadChoice, UserspaceSpec, serve_userspace, start_userspace};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["wireguard-process", "--run-dir", run_dir] => serve_userspace(Path::new(run_dir)),
        ["agent", run_dir, app, binding, port] => agent(run_dir, app, binding, port),
        _ => bail!("unknown arguments {arguments:?}"),
    }
}

/// Starts `wg0` with a key read as base64 from standard input, says "ready" and waits for standard input to close.
fn agent(run_dir: &str, app: &str, binding: &str, port: &str) -> anyhow::Result<()> {
    let mut key = String::new();
    std::io::stdin().read_line(&mut key)?;
    let spec = UserspaceSpec {
        binary: std::env::current_exe()?,
        run_dir: PathBuf::from(run_dir),
        app: Netns::open(Path::new(app))?,
        app_path: PathBuf::from(app),
        binding: Netns::open(Path::new(binding))?,
        interface: "wg0".parse()?,
        mtu: 1390,
        listen_port: port.parse().context("port")?,
        offload: OffloadChoice::Auto,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(start_userspace(&spec, &PrivateKey::from_base64(&key)?))?;
    writeln!(std::io::stdout(), "ready")?;
    std::io::stdin().read_line(&mut key)?;
    Ok(())
}
