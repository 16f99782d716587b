//! What is wrong with a config is shown with its place and the nearest valid name, whatever it is written in.
#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

use std::{fs, process::Command};

/// What `ganger check` says of a config.
fn said(name: &str, text: impl AsRef<[u8]>) -> String {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(name), text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ganger"))
        .args(["check", "-c", name])
        .current_dir(folder.path())
        .env("NO_COLOR", "1")
        .env_remove("XYZZYPLUGHQ")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{name}: {}", String::from_utf8_lossy(&output.stdout));
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn unknown_names_are_shown_with_the_nearest() {
    insta::assert_snapshot!(
        "names_json",
        said(
            "a.json",
            r#"{
  "stats_prot": ":9090",
  "providers": [{"dsik": {}}, {"disk": {"db_nmae": "x.db"}}, {"memroy": {}}],
  "workers": [{"cli": {"wokers": 4}}, {"file": {}}, {"cli": {"backoff": {"inital": "1s"}}}],
  "failure_handler": [{"htpt": {}}]
}
"#
        )
    );
    insta::assert_snapshot!("names_toml", said("a.toml", "[[workers]]\nhttp = { gard = true }\n"));
    insta::assert_snapshot!(
        "names_yaml",
        said("a.yaml", "workers:\n  - cli:\n      env_pas: [A]\n  - &x http:\n      workrs: 3\n")
    );
}

#[test]
fn wrong_types_and_values_are_shown() {
    insta::assert_snapshot!(
        "types",
        said(
            "a.toml",
            r#"stats_port = "nowhere"
grace = "5 parsecs"
output_max = -1
unknown_type = "drop"

[[providers]]
disk = { db_name = 7, lease = 5 }

[[providers]]
disk = { target = -3 }

[[workers]]
cli = { workers = "three" }

[[workers]]
cli = { workers = -1 }

[[workers]]
cli = 4

[[workers]]
http = { guard = "yes" }

[[workers]]
http = { name = "two words" }
"#
        )
    );
}

#[test]
fn entries_of_the_wrong_shape_are_shown() {
    insta::assert_snapshot!(
        "shapes",
        said(
            "a.json",
            r#"{
  "providers": [{"disk": {}, "memory": {}}, {}, "disk", 7],
  "workers": {"cli": {}},
  "failure_handler": [{"cli": null}, {"http": {"urll": "http://127.0.0.1/"}}]
}
"#
        )
    );
}

#[test]
fn names_that_do_not_fit_together_are_shown() {
    insta::assert_snapshot!(
        "together",
        said(
            "a.yaml",
            r#"providers:
  - disk: {}
  - disk: {db_name: other.db}
  - memory: {}
  - memory: {name: second}
workers:
  - cli: {}
  - cli.cli: {}
  - forward: {to: dsk}
failure_handlers:
  - http: {url: "http://127.0.0.1:1/"}
  - http: {url: "http://127.0.0.1:2/"}
"#
        )
    );
    insta::assert_snapshot!(
        "circle",
        said(
            "a.yaml",
            "providers:\n  - disk: {}\nworkers:\n  - cli: {}\nfailure_handler:\n  - forward: {to: disk}\n"
        )
    );
}

#[test]
fn texts_that_cannot_be_read_are_shown() {
    for (name, text) in [
        ("cut.json", &b"{\"workers\": [{\"cli\": {"[..]),
        ("twice.json", b"{\"grace\": \"1s\",\n \"grace\": \"2s\"}"),
        ("cases.json", b"{\"Workers\": [],\n \"workers\": []}"),
        ("latin.json", b"{\"grace\": \"\xff\"}"),
        ("nul.toml", b"grace = \"1s\0\""),
        ("list.json", b"[1]"),
        ("cut.toml", b"workers = [1, 2\nb: }"),
        ("twice.toml", b"grace = \"1s\"\ngrace = \"2s\"\n"),
        ("cut.yaml", b"workers: [1, 2\ngrace: }"),
        ("twice.yaml", b"grace: 1s\ngrace: 2s\n"),
        ("kind.conf", b""),
    ] {
        insta::assert_snapshot!(name.replace('.', "_"), said(name, text));
    }
}

#[test]
fn depth_and_size_have_limits_and_long_lines_are_not_printed() {
    for (name, text) in [
        ("deep.json", format!("{}1{}", "{\"a\":".repeat(5_000), "}".repeat(5_000))),
        ("deeper.json", "[".repeat(200_000)),
        ("deep.toml", format!("a = {}{}", "[".repeat(5_000), "]".repeat(5_000))),
        ("deep.yaml", format!("a: {}{}", "[".repeat(5_000), "]".repeat(5_000))),
        ("large.json", format!("{{\"grace\": \"{}\"}}", "x".repeat(64 << 20))),
        ("bomb.yaml", "a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n".into()),
    ] {
        let said = said(name, text);
        assert!(said.contains(name), "{name}: {said}");
        assert!(said.len() < 4_000, "{name}: {} bytes", said.len());
    }
}

#[test]
fn variables_that_are_missing_are_shown() {
    insta::assert_snapshot!(
        "variables",
        said(
            "a.yaml",
            "workers:\n  - cli: {cwd: \"${XYZZYPLUGHQ}\"}\n  - http: {ca_file: \"${file:/nowhere/ca}\"}\n"
        )
    );
}

#[test]
fn p11_secrets_are_in_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, "canary-1\n").unwrap();
    let text = format!(
        "stats_port: 0.0.0.0:1\nstats_token: [canary-2]\nworkers:\n  - http: {{redirects: \"${{file:{}}}\"}}\n",
        secret.display()
    );
    let said = said("a.yaml", text);
    assert!(!said.contains("canary"), "{said}");
    assert!(said.contains("redirects"), "{said}");
}

/// Where a file cannot be read, nobody knows which of its values are secrets.
#[test]
fn p11_secrets_are_in_no_excerpt_of_a_text_that_cannot_be_read() {
    for (name, text) in [
        ("cut.toml", "stats_token = \"canary-1"),
        ("comma.toml", "[[workers]]\nhttp = { proxy = \"http://u:canary-1@h\" redirects = 1 }\n"),
        ("bare.toml", "stats_token = canary-1\n"),
        ("multi.toml", "a = \"\"\"\ncanary-1\ncanary-2: x\"\nb = [\n"),
        ("cut.json", "{\n  \"stats_token\": \"canary-1\",\n  \"workers\": [{]\n}"),
        ("comma.json", "{\"stats_token\": \"canary-1\" \"grace\": \"1s\"}"),
        ("escape.json", "{\"stats_token\": \"canary-1\\q\"}"),
        ("bare.json", "{\"stats_token\": canary-1}"),
        ("twice.json", "{\"stats_token\": \"canary-1\", \"stats_token\": \"canary-2\"}"),
        ("list.json", "[\"canary-1\"]"),
        ("text.yaml", "canary-1"),
        ("indent.yaml", "stats_token: canary-1\n workers: []\n"),
        ("anchor.yaml", "stats_token: *canary-1\n"),
        ("tag.yaml", "stats_token: !canary-1 canary-2: x\n"),
        ("quote.yaml", "stats_token: \"canary-1\nworkers: []\n"),
        ("tab.yaml", "workers:\n\t- http: {proxy: canary-1}\n"),
        ("typo.toml", "stats_tokn = \"canary-1\"\n[[workers]]\nhttp = { prox = \"canary-2\" }\n"),
        ("nul.toml", "stats_token = \"canary-1\0\"\n"),
    ] {
        let said = said(name, text);
        assert!(!said.contains("canary"), "{name}: {said}");
        assert!(said.contains(&format!("[{name}:")), "{name} has no place: {said}");
    }
    let latin = said("latin.json", b"{\"stats_token\": \"canary-1\xff\"}");
    assert!(!latin.contains("canary") && latin.contains("stats_token"), "{latin}");
    insta::assert_snapshot!(
        "masked",
        said("masked.toml", "[[providers]]\nredis = { host = \"h\", password = \"hünter2\" port = 1 }\n")
    );
}

#[test]
fn off_loopback_figures_need_a_token() {
    insta::assert_snapshot!("open_stats", said("a.toml", "stats_port = \"0.0.0.0:9090\"\n"));
}

#[test]
fn off_loopback_an_intake_needs_a_token() {
    insta::assert_snapshot!(
        "open_intake",
        said("a.toml", "[[providers]]\nhttp = { listen_on = \"0.0.0.0:8081\" }\n")
    );
}

#[test]
fn two_that_would_listen_on_one_address_are_named() {
    insta::assert_snapshot!(
        "one_address",
        said(
            "a.toml",
            r#"stats_port = ":8081"
[[providers]]
http = { listen_on = "127.0.0.1:8081" }
[[providers]]
http = { name = "second", listen_on = "localhost:8082" }
[[providers]]
http = { name = "third", listen_on = "0.0.0.0:8082", token = "t" }
[[providers]]
http = { name = "any", listen_on = "127.0.0.1:0" }
[[providers]]
http = { name = "any-2", listen_on = "127.0.0.1:0" }
"#
        )
    );
}

#[test]
fn a_variable_that_is_not_there_is_told_once() {
    insta::assert_snapshot!("unset", said("a.toml", "grace = \"${XYZZYPLUGHQ}\"\n"));
}

#[test]
fn a_set_up_that_could_not_work_is_refused_before_anything_runs() {
    for (text, why) in [
        (
            r#"{"workers":[{"http":{"allow":["10.0.0.0/8"]}}]}"#,
            "worker `http`: `allow` has no effect without",
        ),
        (r#"{"workers":[{"http":{"guard":true,"allow":["10.0.0.0/99"]}}]}"#, "10.0.0.0/99"),
        (r#"{"workers":[{"http":{"guard":true,"proxy":"http://p:1"}}]}"#, "exclude each other"),
        (r#"{"workers":[{"http":{"proxy":"nonsense"}}]}"#, "`proxy`"),
        (r#"{"workers":[{"cli":{"max_crashes":0}}]}"#, "dead at its first crash"),
    ] {
        let said = said("a.json", text);
        assert!(said.contains(why), "{text}: {said}");
    }
}

#[test]
fn b9_a_worker_that_could_not_work_is_refused_before_anything_runs() {
    for (text, why) in [
        (r#"{"workers":[{"cil":{}}]}"#, "did you mean `cli`"),
        (r#"{"workers":[{"cli":{"workers":0}}]}"#, "must be 1 or more"),
        (r#"{"workers":[{"cli":{"workers":-1}}]}"#, "`workers`"),
        (r#"{"workers":[{"cli":{"timeout":"0s"}}]}"#, "`timeout` must be more than nothing"),
        (r#"{"workers":[{"disk":{"bucket":7}}]}"#, "`bucket`"),
        (r#"{"workers":[{"cli":{}},{"cli.cli":{}}]}"#, "two workers are named `cli`"),
    ] {
        let said = said("a.json", text);
        assert!(said.contains(why), "{text}: {said}");
    }
}

#[test]
fn b16_an_unknown_failure_handler_is_refused_before_anything_runs() {
    let said = said("a.json", r#"{"failure_handler":[{"htpt":{"url":"http://127.0.0.1/"}}]}"#);
    assert!(
        said.contains("there is no failure handler `htpt`") && said.contains("did you mean `http`"),
        "{said}"
    );
}
