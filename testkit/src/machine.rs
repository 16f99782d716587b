//! A machine of its own, for what a test may not do to the one it runs on: an emulated one, with this system's kernel,
//! busybox, and the test's own program.

mod archive;

use std::{
    collections::BTreeSet,
    env, fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::channel,
    time::Duration,
};

use archive::Archive;

/// How long a machine may run, from power on to power off.
const LIFE_MAX: Duration = Duration::from_secs(180);

/// What stands before and after what an errand prints.
const MARK: &str = "@errand";

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct Machine {
    kernel: PathBuf,
    busybox: PathBuf,
    others: Vec<PathBuf>,
}

/// One call of the program in the machine, as root.
#[derive(Clone, Debug, Default)]
pub struct Errand {
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables of its environment.
    pub env: Vec<(String, String)>,
}

/// What became of an errand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Its exit status, as the shell has it.
    pub status: i32,
    /// What it printed, and what the kernel said meanwhile.
    pub printed: String,
}

impl Machine {
    /// Finds its parts: `qemu-system-x86_64` and `busybox` (linked statically) in PATH, and a kernel in `/boot`, or where
    /// `cargo xtask test` puts one.
    ///
    /// # Errors
    /// What is missing.
    pub fn find() -> Result<Machine, String> {
        if !cfg!(target_arch = "x86_64") {
            return Err("there is no machine like this one to emulate".to_owned());
        }
        in_path("qemu-system-x86_64").ok_or("there is no qemu-system-x86_64")?;
        let busybox = in_path("busybox").ok_or("there is no busybox")?;
        let kernel = kernels().into_iter().find(|kernel| fs::File::open(kernel).is_ok());
        let kernel = kernel.ok_or("there is no Linux kernel in /boot that may be read")?;
        Ok(Machine { kernel, busybox, others: Vec::new() })
    }

    /// With another program of this system's, at the same path.
    pub fn with(mut self, program: impl Into<PathBuf>) -> Self {
        self.others.push(program.into());
        self
    }

    /// Boots, runs a program once for each errand, one after the other, and powers off. In it are `/bin` with busybox's
    /// commands, an empty `/tmp`, and control groups of version 2 at `/sys/fs/cgroup`.
    ///
    /// # Errors
    /// It does not boot, or does not end in time: with all that its console showed.
    pub fn run(&self, program: &Path, errands: &[Errand]) -> Result<Vec<Ran>, String> {
        let folder = tempfile::tempdir().map_err(|error| format!("no folder for a machine: {error}"))?;
        let memory = folder.path().join("memory");
        let archive = self.archive(program, errands, folder.path());
        let written = archive.and_then(|archive| fs::write(&memory, archive.finish()));
        written.map_err(|error| format!("what the machine begins with cannot be written: {error}"))?;
        let console = self.boot(&memory)?;
        let ran: Option<Vec<Ran>> = (0..errands.len()).map(|number| ran(&console, number)).collect();
        ran.ok_or_else(|| format!("the machine did not come to its end; its console:\n{console}"))
    }

    /// What is in its memory when it boots.
    fn archive(&self, program: &Path, errands: &[Errand], folder: &Path) -> std::io::Result<Archive> {
        let mut archive = Archive::default();
        for dir in ["proc", "sys", "dev", "tmp", "etc", "root"] {
            archive.dir(dir);
        }
        archive.file("init", 0o755, init(errands).as_bytes());
        archive.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n");
        archive.file("etc/group", 0o644, b"root:x:0:\n");
        archive.file("bin/busybox", 0o755, &fs::read(&self.busybox)?);
        // What a debugger needs is nine tenths of a test program.
        let bare = folder.join("program");
        let stripped = Command::new("strip").arg("-o").arg(&bare).arg(program).stderr(Stdio::null()).status();
        let is_bare = stripped.is_ok_and(|status| status.success());
        archive.file("program", 0o755, &fs::read(if is_bare { &bare } else { program })?);
        let loaded = [program].into_iter().chain(self.others.iter().map(PathBuf::as_path)).map(libraries);
        let loaded: BTreeSet<PathBuf> =
            loaded.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        for file in loaded.iter().chain(&self.others) {
            archive.file(&file.to_string_lossy()[1..], 0o755, &fs::read(file)?);
        }
        Ok(archive)
    }

    /// Runs the machine to its end, and answers what its console showed.
    fn boot(&self, memory: &Path) -> Result<String, String> {
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-accel", "tcg", "-m", "512", "-smp", "2", "-nodefaults", "-nographic", "-no-reboot"])
            .args(["-serial", "stdio", "-append", "console=ttyS0 quiet loglevel=1 panic=-1", "-kernel"])
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(memory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = qemu.spawn().map_err(|error| format!("qemu-system-x86_64 cannot be started: {error}"))?;
        let mut emulator = Emulator(child);
        let (sender, ended) = channel();
        let stdout = emulator.0.stdout.take().expect("it was asked for");
        let stderr = emulator.0.stderr.take().expect("it was asked for");
        let complaints = std::thread::spawn(move || all_of(stderr));
        let console = std::thread::spawn(move || {
            let text = all_of(stdout);
            let _ = sender.send(());
            text
        });
        let is_over = ended.recv_timeout(LIFE_MAX).is_ok();
        // Ends the readers too.
        drop(emulator);
        let console = console.join().unwrap_or_default().replace('\r', "");
        match is_over {
            true => Ok(console + &complaints.join().unwrap_or_default()),
            false => Err(format!("the machine still ran after {LIFE_MAX:?}; its console:\n{console}")),
        }
    }
}

/// A running emulator. Killed and waited for when dropped.
struct Emulator(Child);

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn all_of(mut from: impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(program)).find(|candidate| candidate.is_file())
}

/// Kernels, the most likely first: those for machines that are emulated need no module for a console.
fn kernels() -> Vec<PathBuf> {
    // Beside `debug/deps`, in which tests are.
    let target = env::current_exe().ok().and_then(|exe| Some(exe.ancestors().nth(3)?.join("machine/boot")));
    let dirs = [Some(PathBuf::from("/boot")), target].into_iter().flatten();
    let files = dirs.filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten().map(|entry| entry.path());
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut kernels: Vec<PathBuf> = files.filter(|path| name(path).starts_with("vmlinuz")).collect();
    kernels.sort_by_key(|path| (!name(path).contains("cloud"), name(path)));
    kernels
}

/// The shared libraries that a program loads, and its loader.
fn libraries(program: &Path) -> std::io::Result<Vec<PathBuf>> {
    let listed = Command::new("ldd").arg(program).output()?;
    let text = String::from_utf8_lossy(&listed.stdout);
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

/// The machine's first program.
fn init(errands: &[Errand]) -> String {
    let mut script = "#!/bin/busybox sh\n\
        /bin/busybox --install -s /bin\n\
        export PATH=/bin HOME=/root\n\
        mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp\n\
        mount -t cgroup2 groups /sys/fs/cgroup\n"
        .to_owned();
    for (number, Errand { args, env }) in errands.iter().enumerate() {
        let env: String = env.iter().map(|(name, value)| format!("{name}={} ", quoted(value))).collect();
        let args: String = args.iter().map(|arg| format!(" {}", quoted(arg))).collect();
        script.push_str(&format!("echo; echo {MARK} {number} begins\n{env}/program{args} 2>&1\n"));
        script.push_str(&format!("status=$?; echo; echo {MARK} {number} ends $status\n"));
    }
    script + "poweroff -f\n"
}

/// A word for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// What the console shows of an errand; `None` if it did not come to its end.
fn ran(console: &str, number: usize) -> Option<Ran> {
    let (_, rest) = console.split_once(&format!("{MARK} {number} begins\n"))?;
    let (printed, status) = rest.split_once(&format!("{MARK} {number} ends "))?;
    Some(Ran { status: status.lines().next()?.parse().ok()?, printed: printed.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_errand_printed_is_found_on_the_console() {
        let console = "booting\n\n@errand 0 begins\nhello\n\n@errand 0 ends 0\n\n@errand 1 begins\n";
        assert_eq!(ran(console, 0), Some(Ran { status: 0, printed: "hello\n\n".into() }));
        assert_eq!(ran(console, 1), None, "it went down");
        assert_eq!(ran(&format!("{console}@errand 1 ends 101\n"), 1).unwrap().status, 101);
    }

    #[test]
    fn an_errand_is_called_with_its_words_as_they_are() {
        let errand =
            Errand { args: vec!["--exact".into(), "it's".into()], env: vec![("A".into(), "b c".into())] };
        assert!(init(&[errand]).contains("\nA='b c' /program '--exact' 'it'\\''s' 2>&1\n"));
    }
}
