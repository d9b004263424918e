//! Reads TLS, SSL and DTLS handshakes from borrowed bytes.
#![no_std]
#![forbid(unsafe_code)]
