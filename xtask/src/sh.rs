//! Running other programs.

use std::{
    env,
    ffi::OsStr,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::progress::Progress;

/// How much of a failed program's output is shown.
const LAST_LINES: usize = 40;

/// The executable `name` on PATH or in the directories of system tools, which a user's PATH often
/// leaves out.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// `program`, run as root: directly, or through sudo.
///
/// # Errors
///
/// There is neither root nor sudo.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Result<Command> {
    let program = program.as_ref();
    if is_root() {
        return Ok(Command::new(program));
    }
    let Some(sudo) = find("sudo") else {
        bail!("this needs root, and there is no sudo: run it as root")
    };
    let mut command = Command::new(sudo);
    command.arg("--").arg(program);
    Ok(command)
}

/// The cargo that runs xtask, or the one on PATH, in the workspace.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(crate::workspace::root());
    cargo
}

/// Runs `command` with this process's terminal.
///
/// # Errors
///
/// It cannot be started or fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", show(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", show(command));
    }
    Ok(())
}

/// Runs `command` behind a progress display of `what`; its output is shown only if it fails.
///
/// # Errors
///
/// It cannot be started or fails.
pub(crate) fn run_quietly(what: &str, command: &mut Command) -> Result<()> {
    let progress = Progress::start(what);
    run_silently(command).with_context(|| format!("failed: {what}"))?;
    progress.done();
    Ok(())
}

/// Runs `command`; its output is shown only if it fails.
///
/// # Errors
///
/// It cannot be started or fails.
pub(crate) fn run_silently(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", show(command)))?;
    if !output.status.success() {
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
        bail!("{} failed: {}\n{last}", show(command), output.status);
    }
    Ok(())
}

/// The standard output of `command`.
///
/// # Errors
///
/// It cannot be started or fails; its own message is part of the error.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", show(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed: {}\n{}", show(command), output.status, stderr.trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command as typed in a shell.
pub(crate) fn show(command: &Command) -> String {
    let mut text = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    for arg in command.get_args().map(OsStr::to_string_lossy) {
        // Whole scripts would hide the message.
        let arg = if arg.contains('\n') { "..." } else { &arg };
        let _ = write!(text, " {arg}");
    }
    text
}
