//! Any bytes are a job or say why not; a job that was read is written and read again as it was.
#![no_main]

use ganger_core::Job;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match Job::from_json(bytes) {
        Ok(job) => {
            let text = job.to_json();
            let again = Job::from_json(text.as_bytes()).expect("what was written can be read");
            assert_eq!(again.to_json(), text);
        }
        Err(why) => assert!(!why.to_string().is_empty()),
    }
});
