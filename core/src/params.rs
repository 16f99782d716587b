//! A job's params, held against the worker of its type without running it.

use std::{fmt, sync::Arc};

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::{
    Job, OptionsError, Worker, in_words,
    plugin::{path_of, without_position},
};

type Check = dyn Fn(Option<&RawValue>) -> Result<(), OptionsError> + Send + Sync;

/// Says whether a worker could do a job with these params: what it refuses is refused where the job comes in.
#[derive(Clone)]
pub struct ParamsCheck(Arc<Check>);

impl ParamsCheck {
    /// Takes what can be read as `P`.
    pub fn typed<P: DeserializeOwned>() -> Self {
        ParamsCheck(Arc::new(|params| read_params::<P>(params).map(drop)))
    }

    /// Takes what a worker of type `W` with this config takes.
    pub fn worker<W: Worker>(config: W::Config) -> Self {
        ParamsCheck(Arc::new(move |params| W::check(&config, &read_params::<W::Params>(params)?)))
    }

    /// Holds a job's params against the worker.
    ///
    /// # Errors
    /// What is wrong, in a sentence that names the type and, where there is one, the field.
    pub fn check(&self, job: &Job) -> Result<(), String> {
        (self.0)(job.params.as_deref()).map_err(|error| error.of_job(&job.kind))
    }
}

/// Takes everything: for workers that cannot say before a run.
impl Default for ParamsCheck {
    fn default() -> Self {
        ParamsCheck(Arc::new(|_| Ok(())))
    }
}

impl fmt::Debug for ParamsCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ParamsCheck")
    }
}

/// Reads params as a run does, but keeps the path of what does not fit.
pub(crate) fn read_params<P: DeserializeOwned>(params: Option<&RawValue>) -> Result<P, OptionsError> {
    let read = |text: &str| {
        let mut text = serde_json::Deserializer::from_str(text);
        serde_path_to_error::deserialize::<_, P>(&mut text).map_err(|error| OptionsError {
            message: in_words(without_position(&error.inner().to_string())),
            path: path_of(error.path()),
        })
    };
    match params {
        Some(params) => read(params.get()),
        // A worker without params reads `null`; one that wants an object is told so in its own words.
        None => read("null").map_err(|error| read("{}").err().unwrap_or(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Resize {
        to: Size,
        raw: Option<Box<RawValue>>,
    }

    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Size {
        width: u32,
    }

    fn fault(params: &str) -> String {
        let job = Job::from_json(format!(r#"{{"type":"resize","params":{params}}}"#).as_bytes()).unwrap();
        ParamsCheck::typed::<Resize>().check(&job).err().unwrap_or_default()
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_type_and_place() {
        assert_eq!(fault(r#"{"to":{"width":3},"raw":{"a": 1}}"#), "");
        assert_eq!(
            fault(r#"{"to":{"width":"3"}}"#),
            r#"the params do not fit type `resize`, `to.width`: invalid type: string "3", expected a whole number, not below 0"#
        );
        assert_eq!(fault("{}"), "the params do not fit type `resize`: missing field `to`");
        assert_eq!(fault("null"), "the params do not fit type `resize`: missing field `to`");
        assert!(fault(r#"{"to":{"width":3},"tow":1}"#).contains("`tow`: unknown field `tow`, expected"));
        assert!(fault(r#"{"to":{"width":3},"to":{"width":3}}"#).contains("duplicate field `to`"));
    }

    #[test]
    fn a_run_says_what_does_not_fit_in_the_same_words() {
        for params in [r#"{"to":{"width":"3"}}"#, "{}", "null", r#"{"to":{"width":3},"to":{"width":3}}"#] {
            let job = Job::from_json(format!(r#"{{"type":"resize","params":{params}}}"#).as_bytes()).unwrap();
            let error = crate::JobContext::detached(job).params::<Resize>().err().unwrap();
            assert_eq!(error.message(), fault(params));
        }
    }

    #[test]
    fn a_worker_without_params_takes_a_job_without() {
        let job = Job::from_json(br#"{"type":"t"}"#).unwrap();
        assert_eq!(ParamsCheck::typed::<()>().check(&job), Ok(()));
    }
}
