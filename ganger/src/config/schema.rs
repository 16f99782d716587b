//! What is asked of a plugin's schema.

use schemars::Schema;
use serde_json::Value;

/// The names of an object's options, in order.
pub(crate) fn properties(schema: &Schema) -> Vec<String> {
    let root = schema.as_value();
    let mut names = Vec::new();
    gather(root, root, &mut names, 0);
    names
}

/// The options of a schema, and of those that it is put together from.
fn gather(root: &Value, schema: &Value, names: &mut Vec<String>, depth: usize) {
    let schema = resolve(root, schema);
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        names.extend(properties.keys().cloned());
    }
    if depth > 8 {
        return;
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for part in schema.get(key).and_then(Value::as_array).into_iter().flatten() {
            gather(root, part, names, depth + 1);
        }
    }
}

/// Whether an option is a secret: its schema says `writeOnly`.
pub(crate) fn is_secret(schema: &Schema, key: &str) -> bool {
    let root = schema.as_value();
    let option = root.get("properties").and_then(|properties| properties.get(key));
    option.is_some_and(|option| says_secret(root, option, 0))
}

fn says_secret(root: &Value, schema: &Value, depth: usize) -> bool {
    let here = |schema: &Value| schema.get("writeOnly").and_then(Value::as_bool).unwrap_or(false);
    if here(schema) || here(resolve(root, schema)) {
        return true;
    }
    let inner =
        ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|key| schema.get(key)?.as_array()).flatten();
    let items = schema.get("items").into_iter();
    depth < 8 && inner.chain(items).any(|part| says_secret(root, part, depth + 1))
}

/// Follows a `$ref` into `$defs`.
pub(crate) fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let target = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix('#'));
    target.and_then(|path| root.pointer(path)).unwrap_or(schema)
}
