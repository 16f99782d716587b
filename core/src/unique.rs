//! `unique`: jobs of which there is one at a time.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::{Job, JobId, State};

/// `unique`: a second job with the same key is refused while the first is in one of `while`'s states.
///
/// A job holds its key by being in one of these states, and by nothing else: there is no lock that could outlive it,
/// and none that could run out while it is there. An end counts for as long as its record stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Unique {
    /// The key that makes two jobs the same, 1 to 1,000 bytes.
    #[serde(deserialize_with = "read_key")]
    pub key: String,
    /// The states in which the first job keeps a second one out; without it scheduled, ready and running.
    #[serde(rename = "while", default = "Unique::default_states", deserialize_with = "read_states")]
    pub states: Vec<State>,
}

impl Unique {
    /// The longest key, in bytes.
    pub const KEY_MAX: usize = 1000;

    fn default_states() -> Vec<State> {
        vec![State::Scheduled, State::Ready, State::Running]
    }

    /// Whether a job in this state holds its key.
    pub fn holds_in(&self, state: State) -> bool {
        self.states.contains(&state)
    }

    /// Why a job is refused, or ended without a run, whose key another one holds: for people.
    pub fn duplicate_of(holder: &JobId) -> String {
        format!("a duplicate: job {holder} holds its `unique` key")
    }

    /// What a producer's bytes say of `unique`, and the id that they name. `None` where they say nothing or are no job;
    /// most are told apart by a look for the word alone.
    ///
    /// ```
    /// use ganger_core::Unique;
    /// assert!(Unique::in_raw(br#"{"type":"t","params":{"q":1}}"#).is_none());
    /// let (unique, id) = Unique::in_raw(br#"{"type":"t","id":"a","UNIQUE":{"key":"k"}}"#).unwrap();
    /// assert_eq!((unique.key.as_str(), id.unwrap().to_string().as_str()), ("k", "a"));
    /// ```
    pub fn in_raw(bytes: &[u8]) -> Option<(Unique, Option<JobId>)> {
        if !may_say_unique(bytes) {
            return None;
        }
        let mut job = Job::from_json(bytes).ok()?;
        let unique = job.rare.as_mut()?.unique.take()?;
        Some((unique, job.id))
    }
}

/// Whether `"unique"` stands there in whatever case; or a letter that is escaped, as no writer of JSON does it.
fn may_say_unique(bytes: &[u8]) -> bool {
    // `q` is the rarest of its letters.
    memchr::memchr3_iter(b'q', b'Q', b'\\', bytes).any(|at| match bytes[at] {
        b'\\' => matches!(bytes.get(at + 1..at + 5), Some([b'u', b'0', b'0', b'4'..=b'7'])),
        _ => at
            .checked_sub(4)
            .and_then(|from| bytes.get(from..at + 4))
            .is_some_and(|word| word.eq_ignore_ascii_case(b"\"unique\"")),
    })
}

fn read_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let key = String::deserialize(deserializer)?;
    match key.len() {
        0 => Err(de::Error::custom("field `unique`: a key cannot be empty")),
        1..=Unique::KEY_MAX => Ok(key),
        _ => Err(de::Error::custom(format_args!(
            "field `unique`: a key has at most {} bytes",
            Unique::KEY_MAX
        ))),
    }
}

fn read_states<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<State>, D::Error> {
    let states = Vec::<State>::deserialize(deserializer)?;
    if states.is_empty() {
        return Err(de::Error::custom("field `unique`: with no state in `while` it would keep nobody out"));
    }
    Ok(states)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_found_in_whatever_spelling() {
        let says = |text: &str| Unique::in_raw(text.as_bytes()).is_some();
        assert!(says(r#"{"type":"t","unique":{"key":"k"}}"#));
        assert!(says(r#"{"type":"t","Unique" : {"key":"k"}}"#));
        assert!(says(r#"{"type":"t","\u0075nique":{"key":"k"}}"#));
        assert!(!says(r#"{"type":"t","params":{"unique":{"key":"k"}}}"#));
        assert!(!says(r#"{"type":"t","queue":"q","name":"\u00e4 \\ \"unique\""}"#));
        assert!(!says("unique"));
        assert!(!says("\"unique\""));
    }

    #[test]
    fn a_key_or_states_that_would_mean_nothing_are_refused() {
        let fault = |unique: &str| {
            let text = format!(r#"{{"type":"t","unique":{unique}}}"#);
            Job::from_json(text.as_bytes()).unwrap_err().message
        };
        assert!(fault(r#"{"key":""}"#).contains("cannot be empty"));
        assert!(fault(&format!(r#"{{"key":"{}"}}"#, "k".repeat(1001))).contains("at most 1000 bytes"));
        assert!(fault(r#"{"key":"k","while":[]}"#).contains("keep nobody out"));
        assert!(fault(r#"{"key":"k","while":["busy"]}"#).contains("busy"));
    }
}
