//! ganger with a provider of its own: the jobs are the lines of a file.

use example_custom_provider::Lines;
use ganger::{Plugin, config::Syntax};

#[tokio::main]
async fn main() -> Result<(), ganger::Error> {
    let file = std::env::args().nth(1).unwrap_or_else(|| "jobs.jsonl".to_owned());
    let config =
        serde_json::json!({"providers": [{"lines": {"file": file}}], "workers": [{"cli": {"workers": 4}}]});
    let lines = Plugin::provider::<Lines>(include_str!("../README.md"));
    ganger::builtin().plugin(lines).config_str(config.to_string(), Syntax::Json).run().await
}
