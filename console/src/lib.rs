//! Health, stats and the admin API of a running ganger.
