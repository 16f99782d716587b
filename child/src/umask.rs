//! Which permissions files that children make do not get.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

/// A mask of permissions: three octal digits or fewer, as a text, since a number would be taken for a decimal one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Umask(pub u32);

impl<'de> Deserialize<'de> for Umask {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fault = || de::Error::custom("a mask is a text of three octal digits, like \"027\"");
        let text = serde_json::Value::deserialize(deserializer)?;
        let digits = text.as_str().ok_or_else(fault)?;
        let octal = !digits.is_empty() && digits.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
        let mask = u32::from_str_radix(digits, 8).ok().filter(|mask| octal && *mask <= 0o777);
        mask.map(Umask).ok_or_else(fault)
    }
}

impl JsonSchema for Umask {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Umask".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^0*[0-7]{1,3}$" })
    }
}
