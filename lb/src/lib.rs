//! Affinity table, backend pool and balancing algorithms: no I/O, no clock, no random source.
