//! The `ganger` command.

fn main() -> std::process::ExitCode {
    ganger::cli::main()
}
