//! The SQLite job store that the disk provider and the disk worker both speak.
