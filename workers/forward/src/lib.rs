//! Hands a job on to another provider.
