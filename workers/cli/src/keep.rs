//! `keep_output`: the whole output of each run, in the store or in a file of its own, and what keeps those files few.

use std::{
    borrow::Cow,
    collections::HashSet,
    fmt,
    fs::{DirBuilder, File},
    io::{self, Write},
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use ganger_core::{ByteSize, JobContext, JobId, Period, Stream, Timestamp};
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, open, openat, statat, unlinkat},
    io::Errno,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

/// Where the whole output of each run is kept.
#[derive(Clone, Debug)]
pub enum KeepOutput {
    /// With the job's record in its store, up to the `output_max` of the config: as if each job had `capture_output`.
    Store,
    /// In files.
    Files(KeepFiles),
}

impl<'de> Deserialize<'de> for KeepOutput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Place;
        impl<'de> de::Visitor<'de> for Place {
            type Value = KeepOutput;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"store\", or a table with a `dir`")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<KeepOutput, E> {
                match text {
                    "store" => Ok(KeepOutput::Store),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<KeepOutput, A::Error> {
                KeepFiles::deserialize(de::value::MapAccessDeserializer::new(map)).map(KeepOutput::Files)
            }
        }
        deserializer.deserialize_any(Place)
    }
}

impl JsonSchema for KeepOutput {
    fn schema_name() -> Cow<'static, str> {
        "KeepOutput".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "const": "store" }, generator.subschema_for::<KeepFiles>()] })
    }
}

/// The files in which the output of each run is kept, and how long they stay.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeepFiles {
    /// The folder, for these files alone: one for each run. It is made if need be.
    pub dir: String,
    /// The most that a file holds; what a run prints beyond it is cut there.
    #[serde(default = "size_default")]
    pub max_size: ByteSize,
    /// How long a file stays after its last line.
    #[serde(default = "age_default")]
    pub max_age: Period,
    /// The most that all files hold; then the oldest go.
    #[serde(default = "total_default")]
    pub max_total: ByteSize,
}

fn size_default() -> ByteSize {
    ByteSize::new(100 << 20)
}

fn age_default() -> Period {
    Period::from(Duration::from_secs(7 * 24 * 3600))
}

fn total_default() -> ByteSize {
    ByteSize::new(10 << 30)
}

/// How often files are looked through.
const LOOK: Duration = Duration::from_secs(60);

/// How many runs of a number a job may have: after a crash the number comes again.
const SERIALS: u32 = 100;

/// The longest name, without its number: the system allows 255 bytes.
const NAME_MAX: usize = 200;

/// The folder in which output is kept.
#[derive(Debug)]
pub(crate) struct Keep {
    folder: Arc<Folder>,
    max_size: u64,
    /// So many bytes were written since the last look that was asked for.
    written: AtomicU64,
    /// Asks for a look; when it is gone, the looks end.
    look: SyncSender<()>,
}

#[derive(Debug)]
struct Folder {
    dir: OwnedFd,
    max_age: Duration,
    max_total: u64,
    /// The names of files that are written now: they stay.
    busy: Mutex<HashSet<String>>,
}

impl Keep {
    /// Makes the folder if need be, and sees from now on to its limits.
    pub(crate) fn new(config: &KeepFiles) -> io::Result<Keep> {
        DirBuilder::new().recursive(true).mode(0o700).create(&config.dir)?;
        let dir =
            open(config.dir.as_str(), OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        if fstat(&dir)?.st_mode & 0o002 != 0 {
            return Err(io::Error::other("everybody may write into it: `chmod o-w` it, or name another"));
        }
        let (max_age, max_total) = (config.max_age.get(), config.max_total.get());
        let folder = Arc::new(Folder { dir, max_age, max_total, busy: Mutex::default() });
        let (look, asked) = sync_channel(1);
        let looked = folder.clone();
        thread::Builder::new()
            .name("ganger-keep".to_owned())
            .stack_size(256 << 10)
            .spawn(move || looked.look_after(&asked))?;
        Ok(Keep { folder, max_size: config.max_size.get(), written: AtomicU64::new(0), look })
    }

    /// The files of a run, each made when there is something to write.
    pub(crate) fn files(self: &Arc<Self>, job: &JobContext) -> Kept {
        let stem = format!("{}.{}", file_name(job.id()), job.attempt());
        Kept { keep: self.clone(), stem, serial: None, files: Default::default() }
    }
}

impl Folder {
    fn busy(&self) -> MutexGuard<'_, HashSet<String>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates the file of a stream that is not there, by its run's number or, if that is taken, one after it; at once
    /// under `serial`, which the run's other file has found free.
    fn create(&self, stem: &str, stream: Stream, serial: Option<u32>) -> io::Result<(u32, String, File)> {
        for number in serial.map_or(1..=SERIALS, |serial| serial..=serial) {
            let [name, other] = [stream, stream.other()].map(|stream| name_of(stem, number, stream));
            if serial.is_none() && statat(&self.dir, &other, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                continue;
            }
            if let Some(file) = self.create_new(&name)? {
                return Ok((number, name, file));
            }
        }
        Err(io::Error::other("the files of this run are there already"))
    }

    /// `None` if there is one of this name.
    fn create_new(&self, name: &str) -> io::Result<Option<File>> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Before it is there, so that it is not looked upon as an old one.
        self.busy().insert(name.to_owned());
        match openat(&self.dir, name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => Ok(Some(file.into())),
            Err(error) => {
                self.busy().remove(name);
                if error == Errno::EXIST { Ok(None) } else { Err(error.into()) }
            }
        }
    }

    /// Keeps the folder within its limits, as long as someone may ask for it.
    fn look_after(&self, asked: &Receiver<()>) {
        loop {
            if let Err(error) = self.clear() {
                tracing::warn!(%error, "keep_output: old output cannot be cleared away");
            }
            if let Err(RecvTimeoutError::Disconnected) = asked.recv_timeout(LOOK) {
                return;
            }
        }
    }

    /// Removes what is too old, then the oldest until the rest is not too much.
    fn clear(&self) -> io::Result<()> {
        let now = Timestamp::now().as_millis();
        let mut files = Vec::new();
        for entry in Dir::read_from(&self.dir)? {
            let Ok(name) = entry?.file_name().to_str().map(str::to_owned) else { continue };
            if parse(&name).is_none() {
                continue;
            }
            // One that is gone by now needs no clearing away.
            let Ok(stat) = statat(&self.dir, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
                files.push((stat.st_mtime, u64::try_from(stat.st_size).unwrap_or_default(), name));
            }
        }
        files.sort_unstable();
        let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
        let oldest = now / 1000 - i64::try_from(self.max_age.as_secs()).unwrap_or(i64::MAX / 2000);
        for (changed, size, name) in files {
            let goes = changed < oldest || total > self.max_total;
            if goes && !self.busy().contains(&name) {
                unlinkat(&self.dir, &name, AtFlags::empty())?;
                total -= size;
            }
        }
        Ok(())
    }
}

/// The files of one run.
#[derive(Debug)]
pub(crate) struct Kept {
    keep: Arc<Keep>,
    stem: String,
    /// Which of the runs of its number it is; both of its files have the same.
    serial: Option<u32>,
    /// By stream.
    files: [KeptFile; 2],
}

/// The file of one stream of a run.
#[derive(Debug, Default)]
struct KeptFile {
    open: Option<(String, File)>,
    written: u64,
    /// Why nothing more is written.
    over: Option<String>,
}

impl Kept {
    /// Adds to the file of a stream. What cannot be written is cut there, and no fault of the job.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        let file = &mut self.files[stream as usize];
        if file.over.is_some() {
            return;
        }
        let opened = match &file.open {
            Some(_) => Ok(()),
            None => self.keep.folder.create(&self.stem, stream, self.serial).map(|(serial, name, open)| {
                self.serial = Some(serial);
                file.open = Some((name, open));
            }),
        };
        if let Err(error) = opened.and_then(|()| file.write(bytes, self.keep.max_size)) {
            file.over = Some(error.to_string());
        }
    }

    /// What is to be said of it at the run's end: nothing if it holds all.
    pub(crate) fn fault(&self) -> Option<String> {
        Stream::ALL.into_iter().find_map(|stream| {
            let KeptFile { written, over, .. } = &self.files[stream as usize];
            let why = over.as_ref()?;
            let what = match stream {
                Stream::Stdout => "the output",
                Stream::Stderr => "standard error",
            };
            Some(format!("keep_output: only the first {written} bytes of {what} are in its file: {why}"))
        })
    }
}

impl KeptFile {
    fn write(&mut self, bytes: &[u8], max: u64) -> io::Result<()> {
        let Some((_, file)) = &mut self.open else { return Ok(()) };
        let room = usize::try_from(max - self.written).unwrap_or(usize::MAX);
        let mut left = &bytes[..bytes.len().min(room)];
        while !left.is_empty() {
            match file.write(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.written += written as u64;
                    left = &left[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        match bytes.len() > room {
            true => Err(io::Error::other("it is at its `max_size`")),
            false => Ok(()),
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let names = self.files.iter().filter_map(|file| Some(&file.open.as_ref()?.0));
        let mut busy = self.keep.folder.busy();
        for name in names {
            busy.remove(name);
        }
        drop(busy);
        // With every few files' worth, so that all of them together do not pass the limit by much until the next look.
        let own: u64 = self.files.iter().map(|file| file.written).sum();
        let written = self.keep.written.fetch_add(own, Ordering::Relaxed) + own;
        if written > self.keep.folder.max_total / 16 {
            self.keep.written.store(0, Ordering::Relaxed);
            // One look is asked for already, or nobody looks any more.
            let _ = self.keep.look.try_send(());
        }
    }
}

/// A job's id as a part of a file's name: what may mean something in one is written as `%` and two digits.
fn file_name(id: &JobId) -> String {
    let text = id.to_string();
    let mut name = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'-' | b'_' => name.push(byte.into()),
            b'.' if !name.is_empty() => name.push('.'),
            byte if byte.is_ascii_alphanumeric() => name.push(byte.into()),
            byte => name.push_str(&format!("%{byte:02X}")),
        }
    }
    if name.len() > NAME_MAX {
        // `~` stands in no other name.
        name.truncate(NAME_MAX - 17);
        name.push_str(&format!("~{:016x}", digest(text.as_bytes())));
    }
    name
}

/// FNV-1a.
fn digest(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// The name of a file: `<stem>.log`, `<stem>-2.log` for the second run of that number; of standard error
/// `<stem>.err.log`.
fn name_of(stem: &str, serial: u32, stream: Stream) -> String {
    let serial = if serial > 1 { format!("-{serial}") } else { String::new() };
    let end = match stream {
        Stream::Stdout => "log",
        Stream::Stderr => "err.log",
    };
    format!("{stem}{serial}.{end}")
}

/// The parts of a file's name: the job's, the run's number, which of that number it is, and the stream.
fn parse(name: &str) -> Option<(&str, u32, u32, Stream)> {
    let stem = name.strip_suffix(".log")?;
    let (stem, stream) = match stem.strip_suffix(".err") {
        Some(stem) => (stem, Stream::Stderr),
        None => (stem, Stream::Stdout),
    };
    let (job, run) = stem.rsplit_once('.')?;
    let (number, serial) = run.split_once('-').unwrap_or((run, "1"));
    Some((job, number.parse().ok()?, serial.parse().ok()?, stream))
}

/// The files of a job's last run by stream, as far as they are kept on this machine.
pub fn kept_files(config: &KeepOutput, id: &JobId) -> [Option<PathBuf>; 2] {
    let KeepOutput::Files(config) = config else { return [None, None] };
    let wanted = file_name(id);
    let entries = std::fs::read_dir(&config.dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let of_job = names.filter_map(|name| {
        let (job, number, serial, stream) = parse(&name)?;
        (job == wanted).then_some(((number, serial), stream, name.clone()))
    });
    let of_job: Vec<_> = of_job.collect();
    let last = of_job.iter().map(|(run, ..)| *run).max();
    Stream::ALL.map(|wanted| {
        let mut of_run = of_job.iter().filter(|(run, ..)| Some(*run) == last);
        let (.., name) = of_run.find(|(_, stream, _)| *stream == wanted)?;
        Some(PathBuf::from(&config.dir).join(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s6_no_id_names_a_file_elsewhere() {
        let name = |text: &str| file_name(&text.parse().unwrap());
        assert_eq!(name("backup-17_x"), "backup-17_x");
        assert_eq!(name("../../etc/passwd"), "%2E.%2F..%2Fetc%2Fpasswd");
        assert_eq!(name("a/failed/1"), "a%2Ffailed%2F1");
        let (long, other) = ("ü".repeat(99), format!("{}a", "ü".repeat(98)));
        assert!(name(&long).len() <= NAME_MAX && name(&long) != name(&other));
        assert_eq!(parse("x.1.2.log"), Some(("x.1", 2, 1, Stream::Stdout)));
        assert_eq!(parse("x.1-3.log"), Some(("x", 1, 3, Stream::Stdout)));
        assert_eq!(parse(&name_of("x.err.1", 4, Stream::Stderr)), Some(("x.err", 1, 4, Stream::Stderr)));
        assert!(
            ["x.log", "x.y.log", "x.1", "notes.txt", ".1-a.log"].iter().all(|name| parse(name).is_none())
        );
    }
}
