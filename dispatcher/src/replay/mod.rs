//! Captures, and the engine driven by them.
