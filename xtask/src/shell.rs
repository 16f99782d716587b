//! Running other programs, with their output passed on.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
};

use crate::Fault;

/// The cargo that runs this.
pub(crate) fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

/// A command as a person would type it, for messages.
pub(crate) fn typed(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Runs it, its output going where ours goes.
pub(crate) fn run(command: &mut Command) -> Result<(), Fault> {
    println!("\n$ {}", typed(command));
    let status = command.status().map_err(|error| format!("`{}`: {error}", typed(command)))?;
    if status.success() { Ok(()) } else { Err(format!("`{}` failed ({status})", typed(command))) }
}

/// Runs it, passes on what it prints and gives every line of it to `look`. Answers whether it succeeded.
pub(crate) fn run_watched(command: &mut Command, mut look: impl FnMut(&str)) -> Result<bool, Fault> {
    println!("\n$ {}", typed(command));
    let named = typed(command);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("`{named}`: {error}"))?;
    let (sender, lines) = mpsc::sync_channel(64);
    let stdout = child.stdout.take().expect("it was asked for");
    let stderr = child.stderr.take().expect("it was asked for");
    let readers = [read_lines(stdout, sender.clone()), read_lines(stderr, sender)];
    for line in lines {
        println!("{line}");
        look(&line);
    }
    for reader in readers {
        // A reader that ended early has only lost lines.
        let _ = reader.join();
    }
    let status = child.wait().map_err(|error| format!("`{named}`: {error}"))?;
    Ok(status.success())
}

/// Sends the lines of a stream until it ends.
fn read_lines(
    stream: impl Read + Send + 'static,
    sender: mpsc::SyncSender<String>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    })
}

/// Runs it and answers its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String, Fault> {
    let named = typed(command);
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| format!("`{named}`: {error}"))?;
    if !output.status.success() {
        return Err(format!("`{named}` failed ({})", output.status));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("`{named}` printed what is no UTF-8"))
}

/// Whether a program can be started from PATH.
pub(crate) fn has(program: &str) -> bool {
    has_in(&std::env::var_os("PATH").unwrap_or_default(), program)
}

/// Whether a program can be started from these folders.
pub(crate) fn has_in(paths: &OsStr, program: &str) -> bool {
    std::env::split_paths(paths).any(|folder| folder.join(program).is_file())
}
