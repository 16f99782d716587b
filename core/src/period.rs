//! Spans of time as people write them: `150ms`, `30s`, `5m`, `2h`, `1d`, `1h30m`.

use std::{fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A span of time written `150ms`, `30s`, `5m`, `2h` or `1d`, or as a sum of these (`1h30m`).
///
/// ```
/// use ganger_core::Period;
/// use std::time::Duration;
///
/// let period: Period = "1h30m".parse().unwrap();
/// assert_eq!(period.get(), Duration::from_secs(5400));
/// assert_eq!(period.to_string(), "1h30m");
/// assert!("soon".parse::<Period>().is_err());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(Duration);

/// The longest period accepted: 100 years. Sums with wall-clock times cannot overflow below it.
pub const PERIOD_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The units, longest first, in milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Period {
    /// The period as a [`Duration`].
    pub const fn get(self) -> Duration {
        self.0
    }

    /// A period of `millis` milliseconds.
    pub const fn millis(millis: u64) -> Self {
        Period(Duration::from_millis(millis))
    }

    /// A period of `secs` seconds.
    pub const fn secs(secs: u64) -> Self {
        Period(Duration::from_secs(secs))
    }
}

impl From<Duration> for Period {
    fn from(duration: Duration) -> Self {
        Period(duration)
    }
}

/// A text that is no [`Period`]; its message says what is wrong and shows the form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no duration: {why} (write it like `150ms`, `30s`, `5m`, `2h`, `1d` or `1h30m`)")]
pub struct PeriodError {
    text: String,
    why: &'static str,
}

impl FromStr for Period {
    type Err = PeriodError;

    fn from_str(text: &str) -> Result<Self, PeriodError> {
        let fail = |why| PeriodError { text: text.chars().take(40).collect(), why };
        let mut rest = text.trim();
        if rest == "0" {
            return Ok(Period(Duration::ZERO));
        }
        if rest.is_empty() {
            return Err(fail("it is empty"));
        }
        let mut total = Duration::ZERO;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let (number, tail) = rest.split_at(digits);
            let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(letters);
            let number: f64 = number.parse().map_err(|_| fail("a number is expected before each unit"))?;
            let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
                return Err(fail(if unit.is_empty() {
                    "the unit is missing"
                } else {
                    "the units are d, h, m, s and ms"
                }));
            };
            let millis = number * *scale as f64;
            if !millis.is_finite() || millis > PERIOD_MAX.as_millis() as f64 {
                return Err(fail("it is longer than 100 years"));
            }
            total += Duration::from_millis(millis.round() as u64);
            rest = tail;
        }
        if total > PERIOD_MAX {
            return Err(fail("it is longer than 100 years"));
        }
        Ok(Period(total))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut millis = self.0.as_millis() as u64;
        if millis == 0 {
            return f.write_str("0s");
        }
        for (unit, scale) in UNITS {
            let count = millis / scale;
            if count > 0 {
                write!(f, "{count}{unit}")?;
                millis -= count * scale;
            }
        }
        Ok(())
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Period;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration like `150ms`, `30s`, `5m`, `2h`")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Period, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl JsonSchema for Period {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Period".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "a duration: `150ms`, `30s`, `5m`, `2h`, `1d`, or a sum like `1h30m`",
            "pattern": r"^(0|(\d+(\.\d+)?(ms|s|m|h|d))+)$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_what_is_no_duration() {
        for text in
            ["", "5", "ms", "5 s", "-1s", "1y", "1e9s", "5s!", "1.2.3s", "99999999999999999999d", "١s"]
        {
            assert!(text.parse::<Period>().is_err(), "{text:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn display_and_parse_are_inverse(millis in 0u64..PERIOD_MAX.as_millis() as u64) {
            let period = Period::millis(millis);
            prop_assert_eq!(period.to_string().parse::<Period>().unwrap(), period);
        }

        #[test]
        fn parsing_never_panics(text in "\\PC*") {
            let _ = text.parse::<Period>();
        }
    }
}
