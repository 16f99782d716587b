//! What the fuzz target `config` holds, tried on each test run with drawn inputs: any text is a config or says what is
//! wrong with it, in each of the three syntaxes.

use std::{fs, path::Path};

use ganger::{Config, Registry, config::Syntax, plugins::PLUGINS};
use proptest::prelude::*;

const SYNTAXES: [Syntax; 3] = [Syntax::Json, Syntax::Toml, Syntax::Yaml];

fn registry() -> Registry {
    let mut registry = Registry::default();
    for plugin in PLUGINS {
        registry.add(*plugin).expect("the built-in plugins have names of their own");
    }
    registry
}

fn holds(text: &str) {
    let registry = registry();
    for syntax in SYNTAXES {
        if let Err(error) = Config::parse(text, syntax, &registry) {
            assert!(!error.problems.is_empty() && !error.to_string().is_empty());
            for span in error.problems.iter().filter_map(|problem| problem.span.as_ref()) {
                assert!(span.start <= span.end && span.end <= error.text.len(), "{span:?} in {text:?}");
            }
        }
    }
}

/// The inputs that the target starts from; what the fuzzer once found is among them.
#[test]
fn the_fuzzers_seeds_hold() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/config");
    let files: Vec<_> = fs::read_dir(folder).expect("the seeds are there").collect();
    assert!(!files.is_empty());
    for file in files {
        let bytes = fs::read(file.expect("a seed").path()).expect("a seed can be read");
        holds(&String::from_utf8_lossy(&bytes));
    }
}

/// Values as they stand in configs, and where they should not.
fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("-1".to_owned()),
        Just("1e400".to_owned()),
        Just("\"30s\"".to_owned()),
        Just("\":8081\"".to_owned()),
        Just("\"${HOME}\"".to_owned()),
        Just("\"${XYZZYPLUGHQ:-4}\"".to_owned()),
        Just("\"${\"".to_owned()),
        Just("\"é\\u0000\\ud83d\"".to_owned()),
        "\"[a-z:/.]{0,8}\"",
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let key = prop_oneof![
            "[a-z_]{1,6}",
            "(name|cli|http|disk|memory|workers|timeout|listen_on|db_name|backoff|env_pass|accept|Retries)",
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(","))),
            proptest::collection::vec((key, inner), 0..3).prop_map(|pairs| {
                let pairs: Vec<String> =
                    pairs.into_iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
                format!("{{{}}}", pairs.join(","))
            }),
        ]
    })
}

/// A config's sections with drawn values, as JSON, which YAML is too.
fn config_like() -> impl Strategy<Value = String> {
    let section = "(providers|workers|failure_handler|stats_port|stats|Workers|defaults|[a-z]{1,5})";
    proptest::collection::vec((section, value()), 0..4).prop_map(|sections| {
        let sections: Vec<String> =
            sections.into_iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
        format!("{{{}}}", sections.join(",\n"))
    })
}

/// The same as TOML.
fn toml_like() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        "\\[\\[(providers|workers|failure_handler)\\]\\]\n",
        "\\[(providers|workers|stats)(\\.[a-z]{1,4})?\\]\n",
        "(cli|http|disk|name|stats_port) = (\"[a-z0-9:]{0,6}\"|[0-9]{1,20}|\\{[a-z]{0,3}( = 1)?\\}|\\[\\]|1979-05-27)\n",
        "[a-z.\"']{1,8}=[^\n]{0,6}\n",
    ];
    proptest::collection::vec(line, 0..6).prop_map(|lines| lines.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_a_config_or_says_what_is_wrong(text in "(?s).{0,60}") {
        holds(&text);
    }

    #[test]
    fn whatever_looks_like_json_or_yaml_is_a_config_or_says_what_is_wrong(text in config_like()) {
        holds(&text);
    }

    #[test]
    fn whatever_looks_like_toml_is_a_config_or_says_what_is_wrong(text in toml_like()) {
        holds(&text);
    }

    #[test]
    fn a_config_that_is_cut_anywhere_says_what_is_wrong(cut in 0..2000_usize) {
        for text in [
            include_str!("../src/config/default.toml"),
            "workers:\n  - cli: {workers: 4, timeout: 30s}\n    name: &a schön\n  - http: !!str |\n      x\n",
            "{\"workers\": [{\"cli\": {\"timeout\": \"30s\"}, \"name\": \"sch\\u00f6n é\"}]}",
        ] {
            let cut = (0..=cut % (text.len() + 1)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            holds(&text[..cut]);
        }
    }
}
