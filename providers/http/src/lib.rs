//! Takes jobs in over HTTP.
