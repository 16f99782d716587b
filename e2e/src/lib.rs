//! The built binary, tried from outside.
