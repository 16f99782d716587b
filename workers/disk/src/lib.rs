//! Defers a job to a file for later, and keeps failed ones there.
