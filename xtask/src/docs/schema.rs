//! A JSON Schema as tables for people.

use serde_json::Value;

/// The tables of an object's schema: its own fields, then the objects that they refer to.
pub(super) fn tables(schema: &Value) -> String {
    let mut text = table(schema, schema);
    let Some(definitions) = schema["$defs"].as_object() else { return text };
    for (name, definition) in definitions {
        if definition["properties"].is_object() {
            text.push_str(&format!("\n### {name}\n\n"));
            if let Some(description) = definition["description"].as_str() {
                text.push_str(&format!("{}\n\n", one_line(description)));
            }
            text.push_str(&table(definition, schema));
        }
    }
    text
}

fn table(object: &Value, root: &Value) -> String {
    let Some(properties) = object["properties"].as_object().filter(|map| !map.is_empty()) else {
        return "None.\n".to_owned();
    };
    let required: Vec<&str> =
        object["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut text = String::from("| field | form | default | meaning |\n|---|---|---|---|\n");
    for (name, property) in properties {
        let default = match property.get("default") {
            _ if required.contains(&name.as_str()) => "required".to_owned(),
            None | Some(Value::Null) => String::new(),
            Some(value) => format!("`{value}`"),
        };
        let meaning = description(property, root);
        text.push_str(&format!(
            "| `{name}` | {} | {} | {meaning} |\n",
            form(property, root),
            escape(&default)
        ));
    }
    text
}

/// A field's own description, or else that of what it refers to.
fn description(property: &Value, root: &Value) -> String {
    let own = property["description"].as_str();
    let referred = referred(property, root).and_then(|target| target["description"].as_str());
    escape(&one_line(own.or(referred).unwrap_or_default()))
}

fn referred<'a>(property: &Value, root: &'a Value) -> Option<&'a Value> {
    let name = property["$ref"].as_str()?.strip_prefix("#/$defs/")?;
    root["$defs"].get(name)
}

/// What a value looks like, in a few words.
fn form(property: &Value, root: &Value) -> String {
    if let Some(target) = referred(property, root) {
        return match target["properties"].is_object() {
            true => {
                let name = property["$ref"].as_str().unwrap_or_default().trim_start_matches("#/$defs/");
                format!("[{name}](#{})", name.to_lowercase())
            }
            false => form(target, root),
        };
    }
    if let Some(choices) = choices(property) {
        return choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(" or ");
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(forms) = property[key].as_array() {
            return any_of(forms, root);
        }
    }
    match &property["type"] {
        Value::String(kind) if kind == "array" => format!("list of {}", form(&property["items"], root)),
        Value::String(kind) => word(kind).to_owned(),
        Value::Array(kinds) => {
            let words = kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null").map(word);
            words.collect::<Vec<_>>().join(" or ")
        }
        _ => "anything".to_owned(),
    }
}

/// The values of an enumeration.
fn choices(property: &Value) -> Option<Vec<String>> {
    let spelled = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if let Some(values) = property["enum"].as_array() {
        return Some(values.iter().map(spelled).collect());
    }
    if let Some(value) = property.get("const") {
        return Some(vec![spelled(value)]);
    }
    let forms = property["oneOf"].as_array()?;
    forms.iter().map(|form| form.get("const").map(spelled)).collect()
}

fn any_of(forms: &[Value], root: &Value) -> String {
    let mut words: Vec<String> = Vec::new();
    for one in forms.iter().filter(|one| one["type"] != "null") {
        let word = form(one, root);
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words.join(" or ")
}

fn word(kind: &str) -> &str {
    match kind {
        "string" => "text",
        "integer" => "whole number",
        "boolean" => "true or false",
        "array" => "list",
        other => other,
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A bar would end the table's cell.
fn escape(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_listed_with_form_default_and_meaning() {
        let schema = json!({
            "properties": {
                "url": {"type": "string", "description": "Where\nto | send."},
                "limit": {"type": ["integer", "null"], "default": 5},
            },
            "required": ["url"],
        });
        let text = tables(&schema);
        assert!(text.contains("| `url` | text | required | Where to \\| send. |"), "{text}");
        assert!(text.contains("| `limit` | whole number | `5` |  |"), "{text}");
    }

    #[test]
    fn what_is_referred_to_has_a_table_of_its_own() {
        let schema = json!({
            "properties": {"backoff": {"$ref": "#/$defs/Backoff"}, "level": {"$ref": "#/$defs/Level"}},
            "$defs": {
                "Backoff": {"description": "Waits.", "properties": {"initial": {"type": "string"}}},
                "Level": {"enum": ["low", "high"]},
            },
        });
        let text = tables(&schema);
        assert!(text.contains("| `backoff` | [Backoff](#backoff) |  | Waits. |"), "{text}");
        assert!(text.contains("### Backoff\n\nWaits."), "{text}");
        assert!(text.contains("| `level` | `low` or `high` |"), "{text}");
    }

    #[test]
    fn a_plugin_without_options_says_so() {
        assert_eq!(tables(&json!({"type": "object"})), "None.\n");
    }

    #[test]
    fn forms_are_named_in_words() {
        let root = json!({});
        let cases = [
            (json!({"type": "array", "items": {"type": "string"}}), "list of text"),
            (json!({"anyOf": [{"type": "string"}, {"type": "null"}]}), "text"),
            (json!({"oneOf": [{"const": "a"}, {"const": "b"}]}), "`a` or `b`"),
            (json!({"anyOf": [{"const": "a"}, {"type": "integer"}]}), "`a` or whole number"),
            (json!(true), "anything"),
        ];
        for (schema, expected) in cases {
            assert_eq!(form(&schema, &root), expected);
        }
    }
}
