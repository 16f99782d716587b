//! Jobs in this process's memory: for tests, and the provider to copy.
