//! The modules that a guest may load, with those that they need.
//!
//! The guest's kernel loads them by itself, through `modprobe`, when something asks for them: as on any machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::image::Image;
use crate::{environment, shell};

/// What privnet, its tests and a person in the shell may ask for.
const WANTED: [&str; 26] = [
    "act_mirred",
    "bridge",
    "br_netfilter",
    "cls_bpf",
    "cls_matchall",
    "cls_u32",
    // For ext4, which does not say so.
    "crc32c_generic",
    "dummy",
    "ext4",
    "ipvlan",
    "macvlan",
    "nf_tables",
    // For the rules of iptables that nf_tables has no words for.
    "nft_compat",
    "overlay",
    "sch_ingress",
    "sch_netem",
    "sch_tbf",
    "tun",
    "veth",
    "virtio_blk",
    "virtio_net",
    "virtio_pci",
    "vxlan",
    "wireguard",
    "xt_conntrack",
    "xt_mark",
];

/// What `modprobe` reads.
const INDEX: [&str; 6] = [
    "modules.dep.bin",
    "modules.alias.bin",
    "modules.builtin.bin",
    "modules.builtin.alias.bin",
    "modules.builtin.modinfo",
    "modules.softdep",
];

/// Makes the index of a folder of modules, unless it has one.
///
/// # Errors
/// depmod is missing or fails.
pub fn index(folder: &Path) -> Result<()> {
    if folder.join("modules.dep.bin").is_file() {
        return Ok(());
    }
    let release = folder.file_name().unwrap_or_default();
    let base = folder.ancestors().nth(3).filter(|_| folder.parent().is_some_and(|path| path.ends_with("lib/modules")));
    let base = base.with_context(|| format!("{} is not lib/modules/RELEASE", folder.display()))?;
    let depmod = environment::which("depmod").context("depmod is missing")?;
    shell::run(Command::new(depmod).arg("-b").arg(base).arg(release))
}

/// Adds the modules of `folder`, whose kernel calls itself `release`, to the image.
///
/// # Errors
/// The index cannot be read.
pub fn add(image: &mut Image, folder: &Path, release: &str) -> Result<()> {
    let dependencies = folder.join("modules.dep");
    let text = fs::read_to_string(&dependencies).with_context(|| format!("cannot read {}", dependencies.display()))?;
    // On most machines /lib is a link.
    let lib = fs::canonicalize("/lib").context("cannot find /lib")?;
    let inside = lib.join("modules").join(release);
    let closure = closure(&text, &WANTED);
    if closure.is_empty() {
        bail!("{} names none of the modules that the tests need", dependencies.display());
    }
    for file in closure {
        image.copy(&inside.join(file), &folder.join(file), 0o644);
    }
    for file in INDEX.iter().filter(|file| folder.join(file).is_file()) {
        image.copy(&inside.join(file), &folder.join(file), 0o644);
    }
    Ok(())
}

/// The files of the wanted modules and of all that they need, from the lines `FILE: FILE FILE` of modules.dep, in
/// which each line is complete. A module that is not there is built in, or the program that asks for it fails.
fn closure<'a>(dependencies: &'a str, wanted: &[&str]) -> BTreeSet<&'a str> {
    let lines = dependencies.lines().filter_map(|line| line.split_once(':'));
    let wanted = lines.filter(|(file, _)| wanted.contains(&name(file)));
    wanted.flat_map(|(file, needs)| std::iter::once(file).chain(needs.split_whitespace())).collect()
}

/// The name of a module by its file, as `kernel/net/llc/llc.ko.xz`.
fn name(file: &str) -> &str {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split_once(".ko").map_or(name, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_with_what_it_needs_and_with_nothing_else() {
        let dependencies = "kernel/net/bridge/bridge.ko.xz: kernel/net/802/stp.ko.xz kernel/net/llc/llc.ko.xz\n\
                            kernel/net/bridge/br_other.ko.xz: kernel/net/bridge/bridge.ko.xz\nkernel/drivers/net/veth.ko:\n";
        let found: Vec<&str> = closure(dependencies, &["bridge", "veth", "absent"]).into_iter().collect();
        let bridge = ["kernel/net/802/stp.ko.xz", "kernel/net/bridge/bridge.ko.xz", "kernel/net/llc/llc.ko.xz"];
        assert_eq!(found, [&["kernel/drivers/net/veth.ko"][..], &bridge[..]].concat());
    }
}
