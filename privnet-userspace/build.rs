//! Puts the eBPF object into the library. Never builds it: that takes another compiler, which `cargo xtask build` finds.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the object is; `cargo xtask` sets it. Without it, the object of the last `cargo xtask build` is taken.
const OBJECT: &str = "PRIVNET_EBPF_OBJECT";

fn main() {
    println!("cargo::rerun-if-env-changed={OBJECT}");
    let named = env::var_os(OBJECT).map(PathBuf::from);
    let object = named.clone().unwrap_or_else(|| of_last_build(&variable("CARGO_MANIFEST_DIR")));
    println!("cargo::rerun-if-changed={}", object.display());
    let embedded = PathBuf::from(variable("OUT_DIR")).join("privnet-programs");
    match (fs::copy(&object, &embedded), named) {
        (Ok(_), _) => mark(&embedded),
        // What is not about packets can be built, linted and tested without the object; loading it says what is missing.
        (Err(_), None) => {
            println!("cargo::warning=no eBPF object at {}: run `cargo xtask build`", object.display());
            fs::write(&embedded, []).expect("OUT_DIR can be written");
            mark(&embedded);
        }
        (Err(error), Some(named)) => {
            println!("cargo::error={OBJECT} names {}: {error}; run `cargo xtask build`", named.display());
        }
    }
}

/// Tells the library a mark of the object's bytes (FNV-1a, 64 bits, never 0): what is pinned with the same mark is the same.
fn mark(object: &Path) {
    let bytes = fs::read(object).expect("the object was just written");
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    println!("cargo::rustc-env=PRIVNET_EBPF_MARK={}", hash.max(1));
}

fn of_last_build(manifest_dir: &str) -> PathBuf {
    Path::new(manifest_dir).join("../target/ebpf/privnet-programs")
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}
