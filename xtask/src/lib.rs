//! The house's own tool: tests, docs, tidiness, new plugins.
