//! Which file of the tree goes where in the package.

/// The units, sockets first. Each is a file of `package/`.
pub const UNITS: [&str; 3] = ["privnet.socket", "privnet-docker.socket", "privnet.service"];

/// The scripts that dpkg runs.
pub const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Files that a user may change, and dpkg keeps.
pub const CONFIGURATION: [&str; 1] = ["etc/privnet/privnet.toml"];

/// Source and target.
pub const FILES: [(&str, &str); 8] = [
    ("package/privnet.service", "usr/lib/systemd/system/privnet.service"),
    ("package/privnet.socket", "usr/lib/systemd/system/privnet.socket"),
    ("package/privnet-docker.socket", "usr/lib/systemd/system/privnet-docker.socket"),
    ("package/sysusers.conf", "usr/lib/sysusers.d/privnet.conf"),
    ("package/networkd.network", "usr/lib/systemd/network/10-privnet.network"),
    ("package/networkmanager.conf", "usr/lib/NetworkManager/conf.d/90-privnet.conf"),
    ("package/privnet.toml", "etc/privnet/privnet.toml"),
    ("package/copyright", "usr/share/doc/privnet/copyright"),
];

/// Names under which other programs execute `privnet`: links, and what they lead to.
pub const LINKS: [(&str, &str); 2] =
    [("usr/lib/cni/privnet-cni", "../../bin/privnet"), ("usr/lib/netavark/privnet", "../../bin/privnet")];

/// What goes to `/usr/share/doc/privnet`.
pub const DOCUMENTATION: [&str; 11] = [
    "README.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "docs/cni.md",
    "docs/command-line.md",
    "docs/docker.md",
    "docs/hosts.md",
    "docs/names.md",
    "docs/operations.md",
    "docs/package.md",
    "docs/quickstart.md",
];

/// Completions as `privnet pages` names them, and where their shell looks for them.
pub const COMPLETIONS: [(&str, &str); 3] = [
    ("privnet.bash", "usr/share/bash-completion/completions/privnet"),
    ("_privnet", "usr/share/zsh/vendor-completions/_privnet"),
    ("privnet.fish", "usr/share/fish/vendor_completions.d/privnet.fish"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment;

    #[test]
    fn every_file_of_the_package_is_in_the_table_and_every_row_has_its_file() {
        let folder = environment::root().join("package");
        let mut there: Vec<String> = std::fs::read_dir(&folder)
            .expect("the folder")
            .map(|entry| format!("package/{}", entry.expect("an entry").file_name().to_string_lossy()))
            .collect();
        there.sort();
        let scripts = SCRIPTS.map(|script| format!("package/{script}"));
        let mut listed: Vec<String> = FILES.iter().map(|(source, _)| (*source).to_owned()).chain(scripts).collect();
        listed.sort();
        assert_eq!(there, listed);
        for unit in UNITS {
            assert!(FILES.iter().any(|(source, _)| *source == format!("package/{unit}")), "{unit}");
        }
        for document in DOCUMENTATION {
            assert!(environment::root().join(document).is_file(), "{document}");
        }
        for file in CONFIGURATION {
            assert!(FILES.iter().any(|(_, target)| *target == file), "{file}");
        }
    }
}
