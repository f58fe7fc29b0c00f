//! The manual pages and the completions of the command line, from its grammar: what a package installs beside the binary.

use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;

use super::args::{Cli, PagesArgs};
use crate::api::{ControlError, ErrorCode};

/// The shells that have completions.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Writes `man1/*.1` and `completions/*` below a directory.
///
/// # Errors
/// When they cannot be written.
pub fn write(arguments: &PagesArgs) -> Result<(), ControlError> {
    write_below(&arguments.directory).map_err(|error| {
        let message = format!("cannot write the pages below {}: {error}", arguments.directory.display());
        ControlError::new(ErrorCode::InvalidArgument, message, "give a directory that can be written")
    })
}

fn write_below(directory: &Path) -> io::Result<()> {
    let command = documented();
    let [manual, completions] = ["man1", "completions"].map(|name| directory.join(name));
    for folder in [&manual, &completions] {
        fs::create_dir_all(folder)?;
    }
    clap_mangen::generate_to(command.clone(), &manual)?;
    for shell in SHELLS {
        clap_complete::generate_to(shell, &mut command.clone(), "privnet", &completions)?;
    }
    Ok(())
}

/// The grammar without the verbs and options that are hidden from help: the completions of bash would offer them.
fn documented() -> Command {
    let command = Cli::command();
    let shown = command.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned().collect::<Vec<_>>();
    let mut top = Command::new("privnet").disable_version_flag(true).subcommand_required(true).subcommands(shown);
    top = top.args(command.get_arguments().cloned());
    match command.get_about() {
        Some(about) => top.about(about.clone()),
        None => top,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page_and_a_completion_and_a_hidden_one_has_neither() {
        let directory = tempfile::tempdir().expect("temporary directory");
        write_below(directory.path()).expect("written");
        let read = |name: &str| fs::read_to_string(directory.path().join(name)).expect(name);
        for verb in Cli::command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let name = verb.get_name();
            assert!(read(&format!("man1/privnet-{name}.1")).contains(".SH SYNOPSIS"), "{name}");
            for completion in ["privnet.bash", "_privnet", "privnet.fish"] {
                assert!(read(&format!("completions/{completion}")).contains(name), "{name} in {completion}");
            }
        }
        assert!(read("man1/privnet-agent.1").contains("etcd\\-endpoints"));
        assert!(!read("man1/privnet-agent.1").contains("netns\\-prefix"), "a hidden option");
        assert!(!directory.path().join("man1/privnet-run-child.1").exists());
        assert!(!read("completions/privnet.bash").contains("wireguard-process"));
    }
}
