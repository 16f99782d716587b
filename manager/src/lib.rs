//! Moves jobs between providers and workers, and owns every decision about them.
