//! Leases: who holds a job, and how that is proved.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A fencing token: one exchange's claim on the jobs it leased.
///
/// Made by the manager, never by a store: a store that lost its memory (a failover, a restored snapshot)
/// would hand the same number out twice. The incarnation is 64 random bits drawn when a manager starts; the
/// sequence number counts its exchanges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Token {
    /// Drawn at random when the manager starts.
    pub incarnation: u64,
    /// Counts the exchanges of this incarnation, from 1.
    pub seq: u64,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.incarnation, self.seq)
    }
}

/// A text that is no [`Token`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a lease token")]
pub struct TokenError;

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let (incarnation, seq) = text.split_once('-').ok_or(TokenError)?;
        if incarnation.len() != 16 {
            return Err(TokenError);
        }
        let token = Token {
            incarnation: u64::from_str_radix(incarnation, 16).map_err(|_| TokenError)?,
            seq: seq.parse().map_err(|_| TokenError)?,
        };
        // One spelling only, so that a text and a token compare alike.
        if token.to_string() == text { Ok(token) } else { Err(TokenError) }
    }
}

/// Draws a manager's incarnation: 64 random bits, never 0.
///
/// # Panics
/// If the operating system has no source of randomness, in which case no token could be trusted.
pub fn draw_incarnation() -> u64 {
    let drawn = getrandom::u64().expect("the operating system gives random bits");
    drawn.max(1)
}

/// One leased job: the token of the claim that leased it and its place in that claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseRef {
    /// The claim's token.
    pub token: Token,
    /// The job's place in the claim, from 0.
    pub index: u32,
}

/// What a renewal says of one lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Still ours, and extended.
    Held,
    /// Still ours and extended, but someone has asked for the job to be cancelled.
    Cancel,
    /// No longer ours: stop the work, whatever it yields would be stale.
    Lost,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_text_has_one_spelling() {
        let token = Token { incarnation: 0xab, seq: 7 };
        assert_eq!(token.to_string(), "00000000000000ab-7");
        assert_eq!("00000000000000ab-7".parse(), Ok(token));
        for other in ["00000000000000AB-7", "ab-7", "00000000000000ab-07", "00000000000000ab-+7", "", "-"] {
            assert_eq!(other.parse::<Token>(), Err(TokenError), "{other:?}");
        }
    }
}
