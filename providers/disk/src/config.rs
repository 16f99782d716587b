//! Options of the disk provider.

use std::{path::PathBuf, time::Duration};

use compact_str::CompactString;
use ganger_core::Period;
use ganger_spool::{KEEP_DONE, KEEP_DONE_MAX, Retention};
use schemars::JsonSchema;
use serde::Deserialize;

/// Options of the disk provider.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DiskConfig {
    /// The file that holds the jobs. It is made if it does not exist, its folder is not. Relative to the folder
    /// that ganger is started in.
    pub db_name: PathBuf,
    /// A queue: jobs of other queues in the file are left alone, and jobs that name no queue go there. Without it
    /// all queues are served.
    pub bucket: Option<String>,
    /// How long jobs that ended done, cancelled or expired stay on record; `0` keeps none. Dead ones stay until
    /// an order.
    pub keep_done: Period,
    /// How many such jobs stay on record at most; `0` keeps none.
    pub keep_done_max: u64,
}

impl Default for DiskConfig {
    fn default() -> Self {
        DiskConfig {
            db_name: "ganger.db".into(),
            bucket: None,
            keep_done: Period::from(KEEP_DONE),
            keep_done_max: KEEP_DONE_MAX,
        }
    }
}

impl DiskConfig {
    pub(crate) fn retention(&self) -> Retention {
        let time: Duration = self.keep_done.get();
        Retention { time, count: self.keep_done_max }
    }

    /// The only queue, checked.
    pub(crate) fn queue(&self) -> Result<Option<CompactString>, String> {
        match &self.bucket {
            None => Ok(None),
            Some(bucket) => match ganger_core::name_fault(bucket) {
                None => Ok(Some(bucket.as_str().into())),
                Some(fault) => Err(format!("option `bucket`: {fault}")),
            },
        }
    }
}
