//! A bare loop that has a program of the process protocol do jobs: writes n lines, reads n lines.

use std::{
    io::{self, BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicI64, Ordering},
};

/// How many lines are written before as many are read.
const AT_ONCE: i64 = 64;

/// Has the Python program at `script` do `n` jobs of type `noop`, in `slots` processes, each driven by a thread.
///
/// # Errors
/// The system refuses a process, or one of them ends too early.
pub(crate) fn noops(script: &Path, n: u64, slots: usize) -> io::Result<()> {
    let left = AtomicI64::new(i64::try_from(n).unwrap_or(i64::MAX));
    std::thread::scope(|scope| {
        let slots: Vec<_> = (0..slots).map(|_| scope.spawn(|| drive(script, &left))).collect();
        slots.into_iter().try_for_each(|slot| slot.join().expect("the loop does not panic"))
    })
}

fn drive(script: &Path, left: &AtomicI64) -> io::Result<()> {
    let mut child =
        Command::new("python3").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let gone = || io::Error::other("the program has no pipes");
    let mut input = child.stdin.take().ok_or_else(gone)?;
    let mut output = BufReader::new(child.stdout.take().ok_or_else(gone)?);
    let (mut lines, mut line, mut number) = (String::new(), String::new(), 0);
    output.read_line(&mut line)?;
    loop {
        let many = left.fetch_sub(AT_ONCE, Ordering::Relaxed).min(AT_ONCE);
        if many <= 0 {
            break;
        }
        lines.clear();
        for _ in 0..many {
            number += 1;
            lines.push_str(&format!(
                "{{\"kind\":\"job\",\"job\":{number},\"id\":\"0199a7c2-1111-7222-8333-{number:012}\",\
                 \"type\":\"noop\",\"attempt\":1,\"params\":{{}}}}\n"
            ));
        }
        input.write_all(lines.as_bytes())?;
        for _ in 0..many {
            line.clear();
            output.read_line(&mut line)?;
            if !line.contains("\"done\"") {
                return Err(io::Error::other(format!("the program did not say `done`: {line}")));
            }
        }
    }
    drop(input);
    child.wait().map(drop)
}
