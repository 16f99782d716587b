//! Floors and ratios: how fast ganger is beside the bare store.
