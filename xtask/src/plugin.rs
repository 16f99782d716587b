//! `cargo xtask new-provider`.
use crate::Fault;
use std::path::Path;
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Provider,
    Worker,
}
pub(crate) fn make(_root: &Path, _kind: Kind, _name: &str) -> Result<(), Fault> {
    Ok(())
}
