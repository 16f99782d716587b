//! Any text is a config or says what is wrong with it, in each of the three syntaxes.
#![no_main]

use ganger::{Config, Registry, config::Syntax, plugins::PLUGINS};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut registry = Registry::default();
    for plugin in PLUGINS {
        registry.add(*plugin).expect("the built-in plugins have names of their own");
    }
    for syntax in [Syntax::Json, Syntax::Toml, Syntax::Yaml] {
        if let Err(error) = Config::parse(text, syntax, &registry) {
            assert!(!error.to_string().is_empty());
        }
    }
});
