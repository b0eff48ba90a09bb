//! Manual pages and completions of shells, made from the definition of a command line.

use super::LIMITS;
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::roff::{Roff, bold, roman};
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Writes the documents of the gateway's own command line: see [`write_documents`]. `live` are the keys
/// that SIGHUP puts in force.
///
/// # Errors
///
/// As [`write_documents`].
pub fn write_own_documents(directory: &Path, live: &[&str]) -> io::Result<()> {
    write_documents(super::args::Args::command(), directory)?;
    let mut page = File::options().append(true).open(directory.join("gateway.1"))?;
    limits_section(live).to_writer(&mut page)
}

/// Writes into `directory`, which is made: `NAME.1` and `NAME-SUBCOMMAND.1` for man, and `NAME.bash`,
/// `_NAME`, `NAME.fish`. What is hidden is left out.
///
/// # Errors
///
/// The operating system's.
pub fn write_documents(command: Command, directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let mut command = without_hidden(&command.disable_help_subcommand(true));
    clap_mangen::generate_to(command.clone(), directory)?;
    let name = command.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, &name, directory)?;
    }
    Ok(())
}

/// Completions would offer hidden subcommands.
fn without_hidden(command: &Command) -> Command {
    let shown = command.get_subcommands().filter(|one| !one.is_hide_set()).map(without_hidden);
    let shown: Vec<Command> = shown.collect();
    let mut alone = Command::new(for_ever(command.get_name()))
        .args(command.get_arguments().cloned())
        .subcommands(shown)
        .disable_help_subcommand(true)
        .subcommand_required(command.is_subcommand_required_set());
    if let Some(about) = command.get_about() {
        alone = alone.about(about.clone());
    }
    if let Some(about) = command.get_long_about() {
        alone = alone.long_about(about.clone());
    }
    match command.get_version() {
        Some(version) => alone.version(for_ever(version)),
        None => alone,
    }
}

/// Names live as long as the process, which ends when they are written.
fn for_ever(text: &str) -> &'static str {
    Box::leak(text.into())
}

/// What `--limit` takes.
fn limits_section(live: &[&str]) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["LIMITS"]);
    roff.text([roman(
        "Keys of --limit and of the table limits in the file. check-config prints those in force.",
    )]);
    for limit in LIMITS {
        roff.control("TP", []);
        roff.text([bold(limit.key)]);
        let power = if limit.power_of_two { ", a power of two" } else { "" };
        let is_live = live.iter().any(|key| key.strip_prefix("limits.") == Some(limit.key));
        let reload = if is_live { "; SIGHUP puts a change in force" } else { "" };
        roff.text([roman(format!(
            "{}; default {}, {} to {}{power}{reload}",
            limit.unit, limit.default, limit.min, limit.max
        ))]);
        for paragraph in limit.paragraphs() {
            roff.control("IP", []);
            roff.text([roman(paragraph.replace('`', ""))]);
        }
    }
    roff.control("SH", ["EXIT STATUS"]);
    roff.text([roman(
        "0: done, or ended as asked. 1: failed. 64: the command line or the file is refused.",
    )]);
    roff.control("SH", ["SIGNALS"]);
    roff.text([roman(
        "SIGTERM, SIGINT: tells clients, records sessions and ends; a second one ends at once. SIGHUP: \
         reads the configuration and the files it names again, and logs which of the changed keys need a \
         restart.",
    )]);
    roff
}
