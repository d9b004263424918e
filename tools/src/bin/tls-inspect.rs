//! Prints every TLS and DTLS stream of a capture.
fn main() {}
