//! What the fuzz targets hold, tried on each test run with drawn inputs.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use ganger_core::{ByteSize, Job, JobId, Period, Timestamp};
use proptest::prelude::*;

/// Texts that look like jobs: known and unknown keys, in any case, with values of any form.
fn job_like() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        Just("type".to_owned()),
        Just("Type".to_owned()),
        Just("params".to_owned()),
        Just("retries".to_owned()),
        Just("timeout".to_owned()),
        Just("run_at".to_owned()),
        Just("headers".to_owned()),
        Just("unique".to_owned()),
        "[a-z]{1,6}",
    ];
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("-1".to_owned()),
        Just("1e400".to_owned()),
        Just("[[[]]]".to_owned()),
        Just(r#"{"a":"b"}"#.to_owned()),
        Just(r#"{"key":"k"}"#.to_owned()),
        Just(r#""2026-11-24T00:00:00Z""#.to_owned()),
        "\"[a-z0-9]{0,8}\"",
    ];
    proptest::collection::vec((key, value), 0..6).prop_map(|pairs| {
        let pairs: Vec<String> = pairs.into_iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        format!("{{{}}}", pairs.join(","))
    })
}

/// What the target `job_json` holds.
fn is_a_job_or_says_why_not(bytes: &[u8]) {
    match Job::from_json(bytes) {
        Ok(job) => {
            let text = job.to_json();
            assert_eq!(Job::from_json(text.as_bytes()).unwrap().to_json(), text);
        }
        Err(why) => assert!(!why.to_string().is_empty()),
    }
}

/// What the target `durations` holds.
fn reads_as_it_is_written(text: &str) {
    if let Ok(period) = text.parse::<Period>() {
        assert_eq!(period.to_string().parse::<Period>().unwrap(), period);
    }
    if let Ok(size) = text.parse::<ByteSize>() {
        assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
    }
    if let Ok(id) = text.parse::<JobId>() {
        assert_eq!(id.to_string(), text);
    }
}

/// The inputs that a target starts from; what the fuzzer once found is among them.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    let files = fs::read_dir(folder).unwrap();
    files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
}

#[test]
fn the_fuzzers_seeds_hold() {
    let (jobs, texts) = (seeds("job_json"), seeds("durations"));
    assert!(!jobs.is_empty() && !texts.is_empty());
    jobs.iter().for_each(|bytes| is_a_job_or_says_why_not(bytes));
    texts.iter().for_each(|bytes| reads_as_it_is_written(std::str::from_utf8(bytes).unwrap()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_a_job_or_say_why_not(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        is_a_job_or_says_why_not(&bytes);
    }

    #[test]
    fn whatever_looks_like_a_job_is_one_or_says_why_not(text in job_like()) {
        is_a_job_or_says_why_not(text.as_bytes());
    }

    #[test]
    fn any_text_is_a_duration_a_size_a_time_or_an_id_or_says_why_not(
        text in prop_oneof!["\\PC{0,20}", "[0-9]{1,12}(ms|s|m|h|d|kiB|MiB|GiB|B|)", "[0-9.]{1,6}[a-zA-Z]{0,3}"],
    ) {
        reads_as_it_is_written(&text);
    }
}
