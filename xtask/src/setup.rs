//! `setup`: what the tasks need on this machine. Finds it, or installs it and says why.
//!
//! Looks for programs and files, not for packages: a `tcpdump` from elsewhere needs no package. A task asks for its
//! own purpose only, so the demo installs no tools of the tests.

mod elsewhere;

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use self::elsewhere::{Elsewhere, PATCHELF, Suite};
use crate::toolchain::{self, Toolchain};
use crate::{debian, environment, shell};

/// What a task is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Purpose {
    /// Compile.
    Build,
    /// Compile and run `privnet` on this machine.
    Run,
    /// Compile and run all tests.
    Test,
    /// Compile and run the tests in virtual machines.
    Vm,
    /// Compile and measure.
    Bench,
    /// Measure names beside other servers.
    BenchDns,
    /// Measure hosts that share an etcd.
    BenchFleet,
    /// Measure containers of Docker's.
    BenchRuntimes,
}

/// A program that some purposes need.
struct Tool {
    program: &'static str,
    package: &'static str,
    /// The package that newer releases have the program in.
    split: Option<&'static str>,
    /// Installing the package would start a service, so its program is unpacked into `target/tools` instead; libraries start
    /// nothing, and are installed.
    unpack: bool,
    /// Where else the package comes from than from this machine's suite. Where it cannot be had, the tests that want it are
    /// skipped.
    elsewhere: Option<Elsewhere>,
    why: &'static str,
    purposes: &'static [Purpose],
}

impl Tool {
    const fn new(
        program: &'static str,
        package: &'static str,
        why: &'static str,
        purposes: &'static [Purpose],
    ) -> Self {
        Self { program, package, split: None, unpack: false, elsewhere: None, why, purposes }
    }

    const fn unpacked(
        program: &'static str,
        package: &'static str,
        why: &'static str,
        purposes: &'static [Purpose],
    ) -> Self {
        Self { unpack: true, ..Self::new(program, package, why, purposes) }
    }

    /// Of the file of that package in [`NEWER`], with libraries of that suite.
    const fn newer(self, file: &'static str, libraries: &'static [&'static str]) -> Self {
        Self { elsewhere: Some(Elsewhere { suite: NEWER, file, libraries }), ..self }
    }

    const fn since_split(self, package: &'static str) -> Self {
        Self { split: Some(package), ..self }
    }

    /// The package that has it on this machine, as far as its lists are here.
    fn package(&self) -> &'static str {
        self.split.filter(|package| debian::is_known(package)).unwrap_or(self.package)
    }
}

/// The suite of the programs that this machine has in another version, or not at all. A continuous integration fetches the
/// lists of one.
const NEWER: &str = "trixie";

/// Compiling needs none of these: cargo and a C compiler were there to build xtask.
const TOOLS: [Tool; 42] = {
    use Purpose::{Bench, BenchDns, BenchFleet, BenchRuntimes, Run, Test, Vm};
    const BESIDE: &str = "to be measured beside";
    const PODMAN: &str = "to attach containers that Podman runs";
    const DOCKER: &str = "to attach containers that Docker runs";
    const NETAVARK: &str = "to attach containers that a Podman with netavark's plugins runs";
    /// What these programs need and Debian 12 does not have.
    const LIBRARIES: [&str; 3] = ["libc6", "libgcc-s1", "libsubid5"];
    [
        Tool::new("ip", "iproute2", "to make namespaces by hand and look around", &[Run, Test, Bench, Vm]),
        Tool::new("ping", "iputils-ping", "to probe who reaches whom", &[Test, Vm]),
        Tool::new("tcpdump", "tcpdump", "to see what is on the wire", &[Test, Vm]),
        Tool::new("jq", "jq", "to read the output of `-o json` as a user would", &[Test, Vm]),
        Tool::new("wg", "wireguard-tools", "to see WireGuard as other programs see it", &[Test, Vm]),
        Tool::new("curl", "curl", "to speak to the control socket as a user would", &[Test, Vm, BenchFleet]),
        Tool::new("bpftool", "bpftool", "to see programs and maps as other programs see them", &[Test, Vm]),
        Tool::new("sysctl", "procps", "to set rp_filter in a namespace", &[Test, Vm]),
        Tool::new("iptables", "iptables", "to have rules that must not change", &[Test, Vm]),
        Tool::new("nsenter", "util-linux", "to run a program inside a namespace", &[Test, Vm]),
        Tool::new("unshare", "util-linux", "to stand for a container", &[Test, Vm]),
        Tool::new("dig", "bind9-dnsutils", "to ask for names as a user would", &[Test, Vm]),
        Tool::new("kdig", "knot-dnsutils", "to ask for names with another library", &[Test, Vm]),
        Tool::new("busybox", "busybox", "to ask for names with a small resolver", &[Test, Vm, BenchRuntimes]),
        Tool::new("musl-gcc", "musl-tools", "to ask for names with another C library", &[Test]),
        // Of packages without a program, a file that the tests use.
        Tool::new(
            "/usr/lib/python3/dist-packages/dns/resolver.py",
            "python3-dnspython",
            "to ask for names from Python",
            &[Test],
        ),
        Tool::new("/usr/include/ares.h", "libc-ares-dev", "to ask for names as Node and curl may", &[Test]),
        Tool::new("dnsperf", "dnsperf", "to ask for many names a second", &[Test, Vm, BenchDns]),
        Tool::unpacked("unbound", "unbound", BESIDE, &[BenchDns]),
        Tool::unpacked("nsd", "nsd", BESIDE, &[BenchDns]),
        Tool::new("dnsmasq", "dnsmasq-base", BESIDE, &[BenchDns]),
        Tool::unpacked("etcd", "etcd-server", "to be the store of several hosts", &[Test, Vm, BenchFleet]),
        Tool::unpacked("etcd-3.5", "etcd-server", "to be the same store after its upgrade", &[Test])
            .newer("usr/bin/etcd", &[]),
        Tool::new("openssl", "openssl", "to make certificates for it", &[Test]),
        Tool::unpacked("dockerd", "docker.io", DOCKER, &[Test, BenchRuntimes]),
        Tool::unpacked("docker", "docker.io", DOCKER, &[Test, BenchRuntimes]).since_split("docker-cli"),
        Tool::unpacked("containerd", "containerd", DOCKER, &[Test, BenchRuntimes]),
        Tool::unpacked("containerd-shim-runc-v2", "containerd", DOCKER, &[Test, BenchRuntimes]),
        Tool::unpacked("runc", "runc", DOCKER, &[Test, BenchRuntimes]),
        Tool::unpacked(
            "docker-compose",
            "docker-compose",
            "to run an example as Compose runs it",
            &[Test, BenchRuntimes],
        )
        .newer("usr/libexec/docker/cli-plugins/docker-compose", &[]),
        Tool::unpacked("podman", "podman", PODMAN, &[Test, BenchRuntimes]),
        Tool::unpacked("conmon", "conmon", PODMAN, &[Test, BenchRuntimes]),
        Tool::new(PATCHELF, "patchelf", "to run programs of a newer Debian", &[Test, BenchRuntimes]),
        Tool::unpacked("podman-5/podman", "podman", NETAVARK, &[Test, BenchRuntimes])
            .newer("usr/bin/podman", &LIBRARIES),
        Tool::unpacked("podman-5/netavark", "netavark", NETAVARK, &[Test, BenchRuntimes])
            .newer("usr/lib/podman/netavark", &LIBRARIES),
        // Where it does not run yet, installing it starts nothing.
        Tool::new("/lib/systemd/systemd", "systemd", "to install the package on a machine of its own", &[Test]),
        Tool::unpacked("promtool", "prometheus", "to check the metrics by Prometheus' own rules", &[Test, Vm]),
        Tool::new("qemu-system-x86_64", "qemu-system-x86", "to boot other kernels than the one that runs here", &[Vm]),
        Tool::new("depmod", "kmod", "to index the modules of these kernels", &[Vm]),
        Tool::new("strip", "binutils", "to put no debug information into a guest's memory", &[Vm]),
        Tool::new("mke2fs", "e2fsprogs", "to give machines a disk that outlives their reboot", &[Vm]),
        Tool::new("tc", "iproute2", "to look at filters from inside a guest", &[Vm]),
    ]
};

/// The task.
///
/// # Errors
/// As [`ensure`].
pub fn task(purposes: &[Purpose]) -> Result<()> {
    for purpose in purposes {
        let Toolchain { compiler, linker } = ensure(*purpose)?;
        eprintln!("eBPF compiler: {} ({}, LLVM {})", compiler.rustc.display(), compiler.release, compiler.llvm);
        eprintln!("eBPF linker:   {}", linker.display());
        for tool in TOOLS.iter().filter(|tool| tool.purposes.contains(purpose)) {
            let file = environment::which(tool.program).unwrap_or_default();
            eprintln!("{:<14} {}", format!("{}:", tool.program), file.display());
        }
    }
    Ok(())
}

/// Finds or installs what `purpose` needs, and returns the toolchain for eBPF, which every purpose needs.
///
/// # Errors
/// Something is missing and could not be installed; says what to do by hand.
pub fn ensure(purpose: Purpose) -> Result<Toolchain> {
    tools(purpose)?;
    toolchain::find_or_install()
}

/// Whether [`ensure`] would have nothing to install.
pub fn is_complete(purpose: Purpose) -> bool {
    missing(purpose).is_empty() && toolchain::find().is_some()
}

fn missing(purpose: Purpose) -> Vec<&'static Tool> {
    let is_missing = |tool: &&Tool| tool.purposes.contains(&purpose) && environment::which(tool.program).is_none();
    // No other system has Debian's suites.
    TOOLS.iter().filter(is_missing).filter(|tool| tool.elsewhere.is_none() || debian::is_here()).collect()
}

fn tools(purpose: Purpose) -> Result<()> {
    let missing = missing(purpose);
    if missing.is_empty() {
        return Ok(());
    }
    for tool in &missing {
        shell::say(&format!("{} is missing: {}", tool.program, tool.why));
    }
    let names = |tools: &[&Tool]| tools.iter().map(|tool| tool.program).collect::<Vec<_>>().join(", ");
    if !debian::is_here() {
        bail!("install these programs with the package manager of this machine: {}", names(&missing));
    }
    let mut packages: Vec<&str> = missing.iter().filter(|tool| !tool.unpack).map(|tool| tool.package).collect();
    packages.dedup();
    if !packages.is_empty() {
        debian::install(&packages, "tools")?;
    }
    let mut programs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for tool in missing.iter().filter(|tool| tool.unpack && tool.elsewhere.is_none()) {
        programs.entry(tool.package()).or_default().push(tool.program);
    }
    for (package, programs) in programs {
        unpack(package, &programs)?;
    }
    unpack_newer(&missing);
    let mut still = self::missing(purpose);
    still.retain(|tool| tool.elsewhere.is_none());
    if !still.is_empty() {
        bail!("their packages are installed, but these programs are not there: {}", names(&still));
    }
    Ok(())
}

/// Unpacks the programs of another suite than this machine's; its lists are fetched for them, and removed.
fn unpack_newer(missing: &[&Tool]) {
    let newer: Vec<(&Tool, &Elsewhere)> =
        missing.iter().filter_map(|tool| Some((*tool, tool.elsewhere.as_ref()?))).collect();
    let Some((_, first)) = newer.first() else { return };
    let unpacked = Suite::fetch(first.suite).map(|suite| {
        for (tool, elsewhere) in &newer {
            if let Err(error) = suite.unpack(tool.program, tool.package, elsewhere) {
                shell::say(&format!("{error:#}; the tests that want {} are skipped", tool.program));
            }
        }
    });
    if let Err(error) = unpacked {
        shell::say(&format!("{error:#}; the tests that want a newer program are skipped"));
    }
}

fn unpack(package: &str, programs: &[&str]) -> Result<()> {
    let folder = environment::tools();
    shell::say(&format!("unpacking {} from the package {package} into {}", programs.join(", "), folder.display()));
    let unpacked = folder.with_file_name(package);
    debian::unpack(package, &unpacked)?;
    let libraries = debian::libraries_of(package)?;
    let missing: Vec<&str> = libraries.iter().map(String::as_str).filter(|name| !debian::is_installed(name)).collect();
    if !missing.is_empty() {
        debian::install(&missing, &format!("libraries of {package}"))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for program in programs {
        let [first, second] = ["usr/bin", "usr/sbin"].map(|place| unpacked.join(place).join(program));
        // runc is in the second place, and a link to it in the first.
        let (from, to) = (if first.is_file() && !first.is_symlink() { first } else { second }, folder.join(program));
        fs::rename(&from, &to).with_context(|| format!("cannot move {} to {}", from.display(), to.display()))?;
    }
    fs::remove_dir_all(&unpacked).with_context(|| format!("cannot remove {}", unpacked.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_builds_or_runs_gets_no_tools_of_the_tests() {
        let needed =
            |purpose| TOOLS.iter().filter(move |tool| tool.purposes.contains(&purpose)).map(|tool| tool.program);
        assert_eq!(needed(Purpose::Build).count(), 0);
        assert_eq!(needed(Purpose::Run).collect::<Vec<_>>(), ["ip"]);
        assert!(needed(Purpose::Test).any(|program| program == "promtool"));
        assert!(TOOLS.iter().filter_map(|tool| tool.elsewhere.as_ref()).all(|elsewhere| elsewhere.suite == NEWER));
    }
}
