//! Jobs that run a command.
