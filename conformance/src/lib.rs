//! The suite that every provider and worker passes, chosen by its capabilities.
