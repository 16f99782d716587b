//! Any text is a config or says what is wrong with it, and where, in each of the three syntaxes.
#![no_main]

use std::sync::LazyLock;

use ganger::{Config, Registry, config::Syntax, plugins::PLUGINS};
use libfuzzer_sys::fuzz_target;

static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
    let mut registry = Registry::default();
    for plugin in PLUGINS {
        registry.add(*plugin).expect("the built-in plugins have names of their own");
    }
    registry
});

fuzz_target!(|text: &str| {
    for syntax in [Syntax::Json, Syntax::Toml, Syntax::Yaml] {
        let Err(error) = Config::parse(text, syntax, &REGISTRY) else { continue };
        assert!(!error.problems.is_empty() && !error.to_string().is_empty());
        for span in error.problems.iter().filter_map(|problem| problem.span.as_ref()) {
            assert!(span.start <= span.end && span.end <= error.text.len(), "{span:?}");
        }
    }
});
