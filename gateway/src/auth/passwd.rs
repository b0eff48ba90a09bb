//! `gateway passwd`: writes and deletes users of a password file.

use super::password_file::{self, PasswordHash};
use crate::config::PasswdRequest;
use anyhow::{Context as _, bail};
use std::fs;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::num::NonZeroU32;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Who may read a file that is made new: its owner.
const MODE: u32 = 0o600;

/// Does what was asked for. The file is replaced as a whole, so that whoever reads it meanwhile finds
/// the old one or the new one.
///
/// # Errors
///
/// What could not be done, in words for the operator.
pub fn run(request: &PasswdRequest) -> anyhow::Result<()> {
    let PasswdRequest { file, user_name, password, create, delete, iterations, scram } = request;
    if let Err(expected) = password_file::check_name(user_name) {
        bail!("user name {user_name:?}: expected {expected}");
    }
    let text = match fs::read_to_string(file) {
        Ok(_) if *create => String::new(),
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !delete => String::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    if *delete {
        let Some(text) = without(&text, user_name) else {
            bail!("{} has no user {user_name:?}", file.display());
        };
        return replace(file, &text);
    }
    let password = match password {
        Some(password) => password.clone(),
        None => ask_password()?,
    };
    if password.is_empty() {
        bail!("the password is empty");
    }
    let iterations = NonZeroU32::new(*iterations).context("at least one iteration")?;
    let no_randomness = |_| anyhow::anyhow!("the machine gives no randomness");
    if *scram {
        let hash = PasswordHash::new_scram(&password, iterations)
            .map_err(|expected| anyhow::anyhow!("expected {expected}"))?;
        let mut text = with(&text, user_name, &hash);
        if !text.lines().any(password_file::is_decoy_line) {
            let line = password_file::new_decoy_line().map_err(no_randomness)?;
            text = format!("{line}\n{text}");
        }
        return replace(file, &text);
    }
    let hash = PasswordHash::new(password.as_bytes(), iterations).map_err(no_randomness)?;
    replace(file, &with(&text, user_name, &hash))
}

/// The text without the user's line; `None` when there is none.
fn without(text: &str, user_name: &str) -> Option<String> {
    let is_other =
        |line: &&str| password_file::entry(line).is_none_or(|(name, _)| name != user_name);
    let kept: Vec<&str> = text.lines().filter(is_other).collect();
    let is_changed = kept.len() != text.lines().count();
    is_changed.then(|| kept.iter().map(|line| format!("{line}\n")).collect())
}

/// The text with this hash in the user's line, or in one more at the end.
fn with(text: &str, user_name: &str, hash: &PasswordHash) -> String {
    let entry = format!("{user_name}:{hash}\n");
    let mut written = false;
    let mut all = String::new();
    for line in text.lines() {
        let is_user = password_file::entry(line).is_some_and(|(name, _)| name == user_name);
        match is_user {
            true if written => {}
            true => all.push_str(&entry),
            false => {
                all.push_str(line);
                all.push('\n');
            }
        }
        written |= is_user;
    }
    if !written {
        all.push_str(&entry);
    }
    all
}

/// Writes beside the file and puts that in its place, with the rights the file had.
fn replace(file: &Path, text: &str) -> anyhow::Result<()> {
    let mode = fs::metadata(file).map_or(MODE, |metadata| metadata.permissions().mode() & 0o7777);
    let mut name = file.file_name().context("a file is needed")?.to_owned();
    name.push(format!(".{}", std::process::id()));
    let new = file.with_file_name(name);
    let write = || -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        let mut out = options.write(true).create_new(true).mode(MODE).open(&new)?;
        out.write_all(text.as_bytes())?;
        out.set_permissions(fs::Permissions::from_mode(mode))?;
        out.sync_all()?;
        fs::rename(&new, file)
    };
    write().map_err(|error| {
        // What is left of it helps nobody.
        let _ = fs::remove_file(&new);
        anyhow::Error::new(error).context(format!("cannot write {}", file.display()))
    })
}

/// Reads a password from the terminal, twice and without showing it, or a line of what is piped in.
fn ask_password() -> anyhow::Result<String> {
    let input = io::stdin();
    if !input.is_terminal() {
        return read_line();
    }
    let hidden = Hidden::new()?;
    let first = hidden.ask("Password: ")?;
    let second = hidden.ask("Reenter password: ")?;
    if first != second {
        bail!("the passwords differ");
    }
    Ok(first)
}

fn read_line() -> anyhow::Result<String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).context("cannot read the password")?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// A terminal that does not show what is typed, until it is dropped.
struct Hidden {
    before: rustix::termios::Termios,
}

impl Hidden {
    fn new() -> anyhow::Result<Self> {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let before = tcgetattr(io::stdin()).context("cannot hide what is typed")?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &quiet)
            .context("cannot hide what is typed")?;
        Ok(Self { before })
    }

    fn ask(&self, prompt: &str) -> anyhow::Result<String> {
        let mut out = io::stderr();
        write!(out, "{prompt}").and_then(|()| out.flush()).context("cannot ask")?;
        let line = read_line();
        let _ = writeln!(out);
        line
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        use rustix::termios::{OptionalActions, tcsetattr};
        // Nothing to be done if the terminal is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}
