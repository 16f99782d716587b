//! The command line's reference: the help of every command, as the binary prints it.

use std::{path::Path, process::Command};

use crate::{Fault, shell};

/// How wide the help is printed.
const COLUMNS: &str = "100";

pub(super) fn page(binary: &Path) -> Result<String, Fault> {
    let mut page = format!("{}\n# Command line\n", super::NOTE);
    describe(binary, &[], &mut page)?;
    Ok(page)
}

/// Adds a command's help, and that of the commands below it.
fn describe(binary: &Path, words: &[String], page: &mut String) -> Result<(), Fault> {
    let mut command = Command::new(binary);
    command
        .args(words)
        .arg("--help")
        .env("COLUMNS", COLUMNS)
        .env("NO_COLOR", "1")
        .env_remove("CLICOLOR_FORCE");
    let help = shell::output(&mut command)?;
    let title = [&["ganger".to_owned()], words].concat().join(" ");
    page.push_str(&format!("\n## `{title}`\n\n```text\n{}\n```\n", trimmed(&help)));
    for name in subcommands(&help) {
        describe(binary, &[words, &[name]].concat(), page)?;
    }
    Ok(())
}

/// The text without spaces at line ends, which editors take away.
fn trimmed(text: &str) -> String {
    text.trim_end().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// The commands that a help text lists.
fn subcommands(help: &str) -> Vec<String> {
    let after = help.lines().skip_while(|line| line.trim() != "Commands:").skip(1);
    let listed = after.take_while(|line| !line.trim().is_empty());
    // The name is indented by two; its description goes on further right.
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_from_the_help() {
        let help = "Does things.\n\nUsage: x\n\nCommands:\n  run   Runs it,\n        all of it\n  help  Print this\n\nOptions:\n  -h\n";
        assert_eq!(subcommands(help), ["run"]);
        assert_eq!(subcommands("Usage: x\n\nOptions:\n  -h\n"), [] as [String; 0]);
    }
}
