//! Which directory a process's own control group is, from what `/proc` says.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// A control group, and where it can be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Where control groups are mounted, and which group is seen there.
    mount: PathBuf,
    mounted: PathBuf,
    /// The group's own path, as this process's namespace has it.
    path: PathBuf,
}

impl Place {
    /// Of this process, by its `/proc/self/cgroup` and `/proc/self/mountinfo`.
    ///
    /// # Errors
    /// There is none, or it cannot be seen: in words.
    pub(super) fn of(cgroup: &str, mountinfo: &str) -> Result<Place, String> {
        let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"));
        let path = path.ok_or("this system has no control groups of version 2")?;
        // One whose directory is removed, or that lies outside of the namespace.
        if path.ends_with(" (deleted)") || path.starts_with("/..") {
            return Err(format!("ganger's control group `{path}` cannot be seen from here"));
        }
        let mut mounts = mountinfo.lines().filter_map(mount).peekable();
        if mounts.peek().is_none() {
            return Err("no control groups of version 2 are mounted".to_owned());
        }
        // The last one lies on top of the others.
        mounts
            .rfind(|(mounted, _)| Path::new(path).starts_with(mounted))
            .map(|(mounted, mount)| Place { mount, mounted, path: path.into() })
            .ok_or_else(|| format!("ganger's control group `{path}` is not mounted anywhere"))
    }

    /// Its directory.
    pub(super) fn dir(&self) -> PathBuf {
        match self.path.strip_prefix(&self.mounted) {
            Ok(below) if !below.as_os_str().is_empty() => self.mount.join(below),
            // A join with nothing would end in a slash.
            _ => self.mount.clone(),
        }
    }

    /// The group that it lies in, if that can be seen.
    pub(super) fn parent(&self) -> Option<Place> {
        let path = self.path.parent().filter(|_| self.path != self.mounted)?;
        Some(Place { path: path.to_owned(), ..self.clone() })
    }

    /// Whether it is the root of this process's namespace, or of all groups.
    pub(super) fn is_root(&self) -> bool {
        self.path == Path::new("/")
    }

    /// Whether its name is that of a unit of systemd's, which divides what it lies in.
    pub(super) fn is_unit(&self) -> bool {
        const KINDS: [&str; 6] = ["service", "scope", "slice", "mount", "socket", "swap"];
        self.path.extension().is_some_and(|kind| KINDS.iter().any(|unit| kind == *unit))
    }
}

/// The group that is mounted and where, if a line of mountinfo is about control groups of version 2.
fn mount(line: &str) -> Option<(PathBuf, PathBuf)> {
    let (fields, kind) = line.split_once(" - ")?;
    kind.starts_with("cgroup2 ").then_some(())?;
    let mut fields = fields.split(' ').skip(3);
    Some((unescaped(fields.next()?), unescaped(fields.next()?)))
}

/// A path of mountinfo, in which a blank is written `\040`.
fn unescaped(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PURE: &str = "22 1 0:21 / /proc rw - proc proc rw\n\
                        29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    fn dir(cgroup: &str, mountinfo: &str) -> String {
        match Place::of(cgroup, mountinfo) {
            Ok(place) => place.dir().to_str().unwrap().to_owned(),
            Err(why) => why,
        }
    }

    #[test]
    fn a_group_is_found_where_it_is_mounted() {
        let unit = "0::/system.slice/ganger.service\n";
        assert_eq!(dir(unit, PURE), "/sys/fs/cgroup/system.slice/ganger.service");
        assert_eq!(dir("0::/\n", PURE), "/sys/fs/cgroup");
        let hybrid = "31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                      35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(dir("9:memory:/a\n1:name=systemd:/b\n0::/c\n", hybrid), "/sys/fs/cgroup/unified/c");
        let odd = "41 31 0:38 / /a\\040b\\134c rw - cgroup2 none rw\n";
        assert_eq!(dir("0::/d:e\n", odd), "/a b\\c/d:e");
    }

    #[test]
    fn a_mount_shows_what_lies_below_what_is_mounted() {
        let bind = "50 1 0:26 /user.slice /groups rw - cgroup2 cgroup2 rw\n";
        assert_eq!(dir("0::/user.slice/a.scope\n", bind), "/groups/a.scope");
        assert_eq!(dir("0::/user.slice\n", bind), "/groups");
        let none = "ganger's control group `/user.slices` is not mounted anywhere";
        assert_eq!(dir("0::/user.slices\n", bind), none);
        let both = [bind, PURE].concat();
        assert_eq!(dir("0::/user.slice/a.scope\n", &both), "/sys/fs/cgroup/user.slice/a.scope");
        assert_eq!(dir("0::/b\n", &[PURE, bind].concat()), "/sys/fs/cgroup/b");
        // In a namespace whose mount was made outside of it.
        let foreign = "50 1 0:26 /../../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(dir("0::/\n", foreign), "ganger's control group `/` is not mounted anywhere");
    }

    #[test]
    fn where_there_is_none_the_reason_is_told() {
        assert_eq!(dir("4:memory:/a\n", PURE), "this system has no control groups of version 2");
        assert_eq!(
            dir("0::/a\n", "22 1 0:21 / /proc rw - proc proc rw\n"),
            "no control groups of version 2 are mounted"
        );
        for path in ["/../other", "/a (deleted)"] {
            assert!(dir(&format!("0::{path}\n"), PURE).ends_with("cannot be seen from here"), "{path}");
        }
    }

    #[test]
    fn a_group_lies_in_another_as_far_as_it_can_be_seen() {
        let place = Place::of("0::/a/b.service\n", PURE).unwrap();
        assert!(place.is_unit() && !place.is_root());
        let parent = place.parent().unwrap();
        assert_eq!(parent.dir(), Path::new("/sys/fs/cgroup/a"));
        assert!(!parent.is_unit() && !parent.is_root());
        let root = parent.parent().unwrap();
        assert!(root.is_root() && !root.is_unit());
        assert_eq!(root.parent(), None);
        let bind = Place::of("0::/a/b\n", "50 1 0:26 /a /groups rw - cgroup2 none rw\n").unwrap();
        assert_eq!(bind.parent().unwrap().dir(), Path::new("/groups"));
        assert_eq!(bind.parent().unwrap().parent(), None);
    }
}
