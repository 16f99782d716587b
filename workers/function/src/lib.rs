//! Jobs done by the program's own Rust code.
