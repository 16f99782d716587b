//! The floors: the same work with no manager, as bare as it can be done.

pub(crate) mod http;
pub(crate) mod lines;
pub(crate) mod redis;
pub(crate) mod spawn;
pub(crate) mod sqlite;
