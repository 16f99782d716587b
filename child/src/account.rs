//! The user and the groups that children run as.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString, OsString, c_char, c_int},
    mem::MaybeUninit,
    os::unix::ffi::OsStringExt,
    ptr,
};

use crate::{
    confine::c_text,
    text::{Text, shortened},
};

/// How long what the system knows of one user may be, in bytes; a group with very many members is the longest.
const ENTRY_MAX: usize = 1 << 20;

/// Whom children run as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// Of a user that has an entry.
    pub(crate) name: Option<OsString>,
    pub(crate) home: Option<OsString>,
}

/// What the system knows of a user.
struct User {
    uid: u32,
    gid: u32,
    name: CString,
    home: CString,
}

/// Finds whom the config means; `None` if that is who ganger is.
///
/// # Errors
/// There is no such user or group, or ganger may not become another.
pub(crate) fn of(user: Option<&Text>, group: Option<&Text>) -> Result<Option<Account>, String> {
    if user.is_none() && group.is_none() {
        return Ok(None);
    }
    let (own_uid, own_gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let (uid, known) = match user {
        None => (own_uid, None),
        Some(Text(name)) => match find_user(name)? {
            Some(user) => (user.uid, Some(user)),
            None => (number(name).ok_or_else(|| format!("there is no user `{}`", shortened(name)))?, None),
        },
    };
    let gid = match (group, &known) {
        (Some(Text(name)), _) => match find_group(name)?.or_else(|| number(name)) {
            Some(gid) => gid,
            None => return Err(format!("there is no group `{}`", shortened(name))),
        },
        (None, Some(user)) => user.gid,
        (None, None) if user.is_some() => {
            return Err(format!("`user` is {uid}, which has no entry on this system: name a `group` too"));
        }
        (None, None) => own_gid,
    };
    if (uid, gid) == (own_uid, own_gid) && own_uid != 0 {
        return Ok(None);
    }
    if own_uid != 0 {
        return Err(format!(
            "ganger runs as user {own_uid}, group {own_gid}: only as root can it run commands as another"
        ));
    }
    let groups = match (&known, group) {
        (Some(user), None) => groups_of(&user.name, gid),
        _ => vec![gid],
    };
    let text = |text: CString| OsString::from_vec(text.into_bytes());
    let (name, home) = known.map(|user| (text(user.name), text(user.home))).unzip();
    Ok(Some(Account { uid, gid, groups, name, home }))
}

fn number(text: &str) -> Option<u32> {
    // The last one is -1, which means no change.
    text.parse().ok().filter(|number| *number != u32::MAX)
}

/// A user by name, or by number.
fn find_user(name: &str) -> Result<Option<User>, String> {
    let text = c_text("user", name)?;
    entry("user", name, |entry: *mut libc::passwd, buffer, length, found| {
        // SAFETY: all are valid for writes, `buffer` for `length` bytes.
        match number(name) {
            Some(uid) => unsafe { libc::getpwuid_r(uid, entry, buffer, length, found) },
            None => unsafe { libc::getpwnam_r(text.as_ptr(), entry, buffer, length, found) },
        }
    })
    .map(|found| {
        found.map(|(passwd, _buffer)| {
            // SAFETY: the C library points into the buffer, which is still there.
            let (name, home) = unsafe { (CStr::from_ptr(passwd.pw_name), CStr::from_ptr(passwd.pw_dir)) };
            User { uid: passwd.pw_uid, gid: passwd.pw_gid, name: name.to_owned(), home: home.to_owned() }
        })
    })
}

/// The number of a group by name.
fn find_group(name: &str) -> Result<Option<u32>, String> {
    if number(name).is_some() {
        return Ok(None);
    }
    let text = c_text("group", name)?;
    entry("group", name, |entry: *mut libc::group, buffer, length, found| {
        // SAFETY: all are valid for writes, `buffer` for `length` bytes.
        unsafe { libc::getgrnam_r(text.as_ptr(), entry, buffer, length, found) }
    })
    .map(|found| found.map(|(group, _buffer)| group.gr_gid))
}

type Found<T> = Result<Option<(T, Vec<c_char>)>, String>;

/// Asks the C library for an entry, with as much room as it wants.
fn entry<T: Copy>(
    what: &str,
    name: &str,
    ask: impl Fn(*mut T, *mut c_char, usize, *mut *mut T) -> c_int,
) -> Found<T> {
    let mut buffer: Vec<c_char> = vec![0; 1 << 10];
    loop {
        let mut entry = MaybeUninit::<T>::uninit();
        let mut found = ptr::null_mut();
        match ask(entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &mut found) {
            0 if found.is_null() => return Ok(None),
            // SAFETY: the C library filled it.
            0 => return Ok(Some((unsafe { entry.assume_init() }, buffer))),
            libc::ERANGE if buffer.len() < ENTRY_MAX => buffer.resize(buffer.len() * 2, 0),
            libc::EINTR => {}
            // What some name services say of one that they do not know.
            libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM => return Ok(None),
            error => {
                let error = std::io::Error::from_raw_os_error(error);
                return Err(format!("the {what} `{}` cannot be looked up: {error}", shortened(name)));
            }
        }
    }
}

/// All groups that a user is in, `gid` among them.
fn groups_of(name: &CStr, gid: u32) -> Vec<u32> {
    let mut groups = vec![0; 64];
    loop {
        let mut count = c_int::try_from(groups.len()).unwrap_or(c_int::MAX);
        // SAFETY: `groups` is valid for writes of `count` numbers.
        let done = unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &mut count) };
        let count = usize::try_from(count).unwrap_or(0);
        if done >= 0 {
            groups.truncate(count);
            return groups;
        }
        if groups.len() >= 1 << 16 {
            return vec![gid];
        }
        groups.resize(count.max(groups.len() * 2), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Text {
        Text(text.to_owned())
    }

    #[test]
    fn who_is_unknown_is_named() {
        for (user, group, part) in [
            (Some("no-such-user"), None, "there is no user `no-such-user`"),
            (Some("root"), Some("no-such-group"), "there is no group `no-such-group`"),
            (Some("4000123"), None, "name a `group` too"),
            (Some("a\0b"), None, "NUL"),
            (Some("-1"), None, "there is no user `-1`"),
        ] {
            let error = of(user.map(text).as_ref(), group.map(text).as_ref()).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_user_is_found_by_name_and_by_number() {
        let root = find_user("root").unwrap().unwrap();
        assert_eq!((root.uid, root.gid, root.name.to_bytes()), (0, 0, b"root".as_slice()));
        assert_eq!(find_user("0").unwrap().unwrap().home, root.home);
        assert_eq!(find_group("root").unwrap(), Some(0));
        assert!(groups_of(c"root", 0).contains(&0));
    }
}
