//! Job ids.

use std::{fmt, str::FromStr};

use compact_str::CompactString;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

use crate::{
    clock::Timestamp,
    lease::{LeaseRef, Token},
};

/// The longest id accepted, in bytes.
pub const ID_MAX: usize = 200;

/// How much of an id the ids of the jobs that come from it repeat, so that they are no longer than [`ID_MAX`].
const STEM_MAX: usize = ID_MAX - 30;

/// A job's id: any text of 1 to [`ID_MAX`] bytes without spaces or control characters.
///
/// Ids that ganger makes are kept in binary, so that an id costs no allocation: a UUIDv7 for an enqueued job,
/// the lease's token and index (`c-<incarnation>-<seq>-<index>`) for a raw entry that a producer pushed.
///
/// ```
/// use ganger_core::JobId;
/// let id: JobId = "order-17".parse().unwrap();
/// assert_eq!(id.to_string(), "order-17");
/// assert!("two words".parse::<JobId>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct JobId(Form);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Form {
    Uuid(Uuid),
    Claimed(LeaseRef),
    Text(CompactString),
}

impl JobId {
    /// A new UUIDv7 (RFC 9562): sortable by time of making.
    pub fn new() -> Self {
        JobId(Form::Uuid(Uuid::now_v7()))
    }

    /// The id of a raw entry, made at its first claim.
    pub fn claimed(lease: LeaseRef) -> Self {
        JobId(Form::Claimed(lease))
    }

    /// The id of the `n`th job that follows from this one (`<parent>/<n>`).
    pub fn child(&self, n: usize) -> Self {
        JobId(Form::Text(compact_str::format_compact!("{}/{n}", self.stem())))
    }

    /// The id of the `n`th failure-handler job of this one (`<parent>/failed/<n>`), counted from 1.
    pub fn failed(&self, n: usize) -> Self {
        JobId(Form::Text(compact_str::format_compact!("{}/failed/{n}", self.stem())))
    }

    /// The id of the job that this one follows from, if it is spelled as [`child`](JobId::child) and
    /// [`failed`](JobId::failed) spell ids.
    pub fn parent(&self) -> Option<JobId> {
        let Form::Text(text) = &self.0 else { return None };
        let (parent, n) = text.rsplit_once('/')?;
        let is_number = !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit());
        let parent = parent.strip_suffix("/failed").unwrap_or(parent);
        is_number.then(|| parent.parse().ok()).flatten()
    }

    /// When it was made, for an id that ganger gave to an enqueued job.
    pub fn made_at(&self) -> Option<Timestamp> {
        let Form::Uuid(uuid) = &self.0 else { return None };
        let (secs, nanos) = uuid.get_timestamp()?.to_unix();
        let millis =
            i64::try_from(secs).ok()?.checked_mul(1000)?.checked_add(i64::from(nanos / 1_000_000))?;
        Some(Timestamp::from_millis(millis))
    }

    /// What the ids of jobs that come from this one begin with: its text, or, where that leaves no room for more,
    /// its head and a hash of the whole (FNV-1a, 64 bits).
    fn stem(&self) -> CompactString {
        let text = compact_str::format_compact!("{self}");
        if text.len() <= STEM_MAX {
            return text;
        }
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        let head = (0..=STEM_MAX - 17).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        compact_str::format_compact!("{}~{hash:016x}", &text[..head])
    }
}

impl Default for JobId {
    fn default() -> Self {
        JobId::new()
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Uuid(uuid) => {
                let mut buffer = [0; uuid::fmt::Hyphenated::LENGTH];
                f.write_str(uuid.hyphenated().encode_lower(&mut buffer))
            }
            Form::Claimed(lease) => write!(f, "c-{}-{}", lease.token, lease.index),
            Form::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobId({self})")
    }
}

/// Why a text is no [`JobId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing there.
    #[error("an id cannot be empty")]
    Empty,
    /// Longer than [`ID_MAX`].
    #[error("an id has at most {ID_MAX} bytes")]
    Long,
    /// A space or a control character.
    #[error("an id has no spaces or control characters")]
    Character,
}

impl FromStr for JobId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.is_empty() {
            return Err(IdError::Empty);
        }
        if text.len() > ID_MAX {
            return Err(IdError::Long);
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(IdError::Character);
        }
        Ok(JobId(binary(text).unwrap_or_else(|| Form::Text(CompactString::new(text)))))
    }
}

/// The binary form of a text that is spelled exactly as ganger spells its own ids.
fn binary(text: &str) -> Option<Form> {
    if text.len() == uuid::fmt::Hyphenated::LENGTH && !text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Uuid::try_parse(text).ok().map(Form::Uuid);
    }
    let (token, index) = text.strip_prefix("c-")?.rsplit_once('-')?;
    let lease = LeaseRef { token: token.parse::<Token>().ok()?, index: index.parse().ok()? };
    (lease.index.to_string() == index).then_some(Form::Claimed(lease))
}

impl Serialize for JobId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = JobId;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an id (a text)")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<JobId, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn binary_forms_keep_their_spelling() {
        let made = JobId::new();
        assert_eq!(made.to_string().parse::<JobId>().unwrap(), made);
        let claimed = JobId::claimed(LeaseRef { token: Token { incarnation: 9, seq: 3 }, index: 12 });
        assert_eq!(claimed.to_string(), "c-0000000000000009-3-12");
        assert_eq!(claimed.to_string().parse::<JobId>().unwrap(), claimed);
        assert_eq!(claimed.failed(1).to_string(), "c-0000000000000009-3-12/failed/1");
    }

    #[test]
    fn ids_made_from_a_long_id_are_ids() {
        let (one, two) = (format!("{}1", "ä".repeat(99)), format!("{}2", "ä".repeat(99)));
        let failed = |id: &str| id.parse::<JobId>().unwrap().failed(usize::MAX).to_string();
        assert!(failed(&one).parse::<JobId>().is_ok(), "{}", failed(&one));
        assert_ne!(failed(&one), failed(&two));
        let id: JobId = one.parse().unwrap();
        assert!(id.child(1).failed(1).child(2).failed(2).to_string().parse::<JobId>().is_ok());
    }

    #[test]
    fn an_id_tells_which_job_it_follows_from() {
        let parent = |id: &str| id.parse::<JobId>().unwrap().parent().map(|parent| parent.to_string());
        assert_eq!(parent("a/1"), Some("a".into()));
        assert_eq!(parent("a/2/failed/10"), Some("a/2".into()));
        for id in ["a", "a/b", "/1", "a/", "a/1x"] {
            assert_eq!(parent(id), None, "{id}");
        }
        let made = JobId::new();
        assert_eq!(made.child(1).parent(), Some(made.clone()));
        let age = Timestamp::now().since(made.made_at().unwrap());
        assert!(age.as_secs() < 60, "{age:?}");
        assert_eq!(made.child(1).made_at(), None);
    }

    #[test]
    fn an_id_stays_small() {
        assert!(size_of::<JobId>() <= 32);
    }

    proptest! {
        #[test]
        fn every_accepted_text_comes_back_as_it_was(text in "\\PC{1,60}") {
            if let Ok(id) = text.parse::<JobId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
