//! The arguments of an `http` job.

use std::fmt;

use ganger_core::Period;
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use crate::Statuses;

/// Arguments of an `http` job; as a failure handler, options of its entry.
///
/// Keys match exactly or without case, as in GoWorker; `UrlParams` is `url_params`.
#[derive(Clone, Debug, Default, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct HttpParams {
    /// Where to: an `http` or `https` URL.
    pub url: String,
    /// The method. Default `GET`; as a failure handler `POST`.
    #[schemars(with = "Option<String>")]
    pub method: Option<String>,
    /// Added to the URL's query: an object of texts, numbers and truth values, or of lists of these.
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    pub url_params: Vec<(String, String)>,
    /// Request headers: an object of texts, numbers and truth values, or of lists of these.
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    pub headers: Vec<(String, String)>,
    /// The body: a text is sent as it is, anything else as JSON.
    #[schemars(with = "Option<Value>")]
    pub body: Option<Box<RawValue>>,
    /// The statuses that mean success. Default `2xx`.
    pub expect: Option<Statuses>,
    /// The longest request, from its start to the last byte of the answer.
    pub timeout: Option<Period>,
    /// Params that are not known.
    #[schemars(skip)]
    pub(crate) unknown: Vec<String>,
}

/// What a job may say.
pub(crate) const PARAMS: [&str; 7] = ["url", "method", "url_params", "headers", "body", "expect", "timeout"];

fn param(key: &str) -> Option<usize> {
    let spelled = if key.eq_ignore_ascii_case("urlparams") { "url_params" } else { key };
    let exact = PARAMS.iter().position(|name| *name == spelled);
    exact.or_else(|| PARAMS.iter().position(|name| name.eq_ignore_ascii_case(key)))
}

impl<'de> Deserialize<'de> for HttpParams {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ParamsVisitor)
    }
}

struct ParamsVisitor;

impl<'de> Visitor<'de> for ParamsVisitor {
    type Value = HttpParams;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a `url`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<HttpParams, A::Error> {
        let mut params = HttpParams::default();
        let mut seen = 0u8;
        while let Some(key) = map.next_key::<String>()? {
            let Some(at) = param(&key) else {
                map.next_value::<de::IgnoredAny>()?;
                params.unknown.push(key);
                continue;
            };
            if seen & (1 << at) != 0 {
                return Err(de::Error::custom(format_args!("`{key}` is given twice")));
            }
            seen |= 1 << at;
            match PARAMS[at] {
                "url" => params.url = map.next_value()?,
                "method" => params.method = map.next_value()?,
                "url_params" => params.url_params = map.next_value::<Option<Pairs>>()?.unwrap_or_default().0,
                "headers" => params.headers = map.next_value::<Option<Pairs>>()?.unwrap_or_default().0,
                "body" => {
                    let raw: Box<RawValue> = map.next_value()?;
                    params.body = (raw.get() != "null").then_some(raw);
                }
                "expect" => params.expect = map.next_value()?,
                _ => params.timeout = map.next_value()?,
            }
        }
        if params.url.is_empty() {
            return Err(de::Error::missing_field("url"));
        }
        Ok(params)
    }
}

/// An object of scalars, or of lists of scalars, flattened.
#[derive(Default)]
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Pairs;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts, numbers and truth values")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    match value {
                        Value::Null => {}
                        Value::Array(list) => {
                            for value in list {
                                let text = scalar(&key, value)?;
                                pairs.push((key.clone(), text));
                            }
                        }
                        value => {
                            let text = scalar(&key, value)?;
                            pairs.push((key, text));
                        }
                    }
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

fn scalar<E: de::Error>(key: &str, value: Value) -> Result<String, E> {
    match value {
        Value::String(text) => Ok(text),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(E::custom(format_args!("`{key}` is neither a text, a number, nor a truth value"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<HttpParams, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_goworkers_params() {
        let params = read(
            r#"{"URL":"http://x/","Method":"PUT","UrlParams":{"a":1,"b":[true,"c"],"d":null},
                "headers":{"X-N":7},"body":{"k": "v"}}"#,
        )
        .unwrap();
        assert_eq!((params.url.as_str(), params.method.as_deref()), ("http://x/", Some("PUT")));
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(params.url_params, [pair("a", "1"), pair("b", "true"), pair("b", "c")]);
        assert_eq!(params.headers, [pair("X-N", "7")]);
        assert_eq!(params.body.unwrap().get(), r#"{"k": "v"}"#);
    }

    #[test]
    fn says_what_does_not_fit() {
        assert!(read("{}").unwrap_err().contains("missing field `url`"));
        assert!(read(r#"{"url":"a","URL":"b"}"#).unwrap_err().contains("given twice"));
        assert!(read(r#"{"url":"a","headers":{"h":{}}}"#).unwrap_err().contains("`h` is neither"));
        assert!(read(r#"{"url":"a","url_params":7}"#).unwrap_err().contains("an object"));
        assert!(read(r#"{"url":"a","expect":"fine"}"#).unwrap_err().contains("names no HTTP status"));
        assert_eq!(read(r#"{"url":"a","timout":"1s"}"#).unwrap().unknown, ["timout"]);
    }
}
