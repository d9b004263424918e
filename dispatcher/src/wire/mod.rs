//! Header views, checksums, sequence numbers.
