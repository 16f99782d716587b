//! Jobs that make an HTTP request.
