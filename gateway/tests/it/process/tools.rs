//! Programs that tests use and `make tools` installs.

use super::gateway::PATIENCE;
use crate::sources::crate_folder;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

/// The repository's folder of installed tools.
pub(crate) fn tools_folder() -> PathBuf {
    crate_folder().join("../.tools")
}

/// The command for `program`, or `None` when it is missing and this is not CI.
///
/// `probe` are arguments with which it ends at once and well.
pub(crate) fn tool(program: impl Into<PathBuf>, probe: &[&str]) -> Option<Command> {
    let program = program.into();
    let mut trial = Command::new(&program);
    let found = trial.args(probe).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        return Some(Command::new(program));
    }
    missing(&format!("{} cannot be run", program.display()));
    None
}

/// Fails in CI; elsewhere says loudly that the test was skipped.
pub(crate) fn missing(what: &str) {
    let is_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    assert!(!is_ci, "{what}: run `make tools`");
    #[expect(clippy::print_stderr, reason = "the test's own output")]
    {
        eprintln!("\n*** SKIPPED: {what}: run `make tools` ***\n");
    }
}

/// Runs `command` to its end and returns what it printed; fails when it does.
#[track_caller]
pub(crate) fn run(mut command: Command) -> String {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    text_of(&format!("{command:?}"), &finish(child.unwrap()))
}

/// Waits for the end of a program that limits its time by itself.
pub(crate) fn finish(child: Child) -> Output {
    child.wait_with_output().unwrap()
}

#[track_caller]
pub(crate) fn text_of(what: &str, output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {}\n{text}\n{errors}", output.status);
    text
}

/// [`PATIENCE`] in whole seconds, for flags of programs.
pub(crate) fn patience_s() -> String {
    PATIENCE.as_secs().to_string()
}
