//! Code points: numbers in newtypes, so that values nobody has assigned (GREASE, RFC 8701, or tomorrow's) pass through unharmed.

use core::fmt;

macro_rules! codepoint {
    ($(#[$doc:meta])* $name:ident($int:ty), $width:literal { $($(#[$cdoc:meta])* $constant:ident = $value:literal => $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $int);

        impl $name {
            $($(#[$cdoc])* pub const $constant: Self = Self($value);)*

            /// The name it is known by, if it is one of those named here.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($label),)*
                    _ => None,
                }
            }
        }

        impl From<$int> for $name {
            fn from(value: $int) -> Self {
                Self(value)
            }
        }

        /// The name, or the number in hexadecimal.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.pad(name),
                    None => write!(f, concat!("0x{:0", $width, "x}"), self.0),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "(0x{:0", $width, "x})"), self.0)
            }
        }

        /// The number alone, in lower-case hexadecimal of its full width (`{:x}` of TLS 1.2 is `0303`).
        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{:0", $width, "x}"), self.0)
            }
        }
    };
}

codepoint! {
    /// `ProtocolVersion` (RFC 8446, 4.1.2): a version in a record, a hello or an extension.
    ProtocolVersion(u16), 4 {
        /// SSL 2.0, as its own hello writes it.
        SSL2 = 0x0002 => "SSLv2",
        /// SSL 3.0 (RFC 6101).
        SSL3 = 0x0300 => "SSLv3",
        /// TLS 1.0 (RFC 2246).
        TLS1_0 = 0x0301 => "TLS 1.0",
        /// TLS 1.1 (RFC 4346).
        TLS1_1 = 0x0302 => "TLS 1.1",
        /// TLS 1.2 (RFC 5246).
        TLS1_2 = 0x0303 => "TLS 1.2",
        /// TLS 1.3 (RFC 8446).
        TLS1_3 = 0x0304 => "TLS 1.3",
        /// DTLS 1.0 as OpenSSL 0.9.8 wrote it before the RFC, and some VPN clients since.
        DTLS_BAD = 0x0100 => "DTLS 0.9",
        /// DTLS 1.0 (RFC 4347).
        DTLS1_0 = 0xfeff => "DTLS 1.0",
        /// DTLS 1.2 (RFC 6347).
        DTLS1_2 = 0xfefd => "DTLS 1.2",
        /// DTLS 1.3 (RFC 9147).
        DTLS1_3 = 0xfefc => "DTLS 1.3",
    }
}

impl ProtocolVersion {
    /// SSL 3.0, any TLS, or what may come to follow: the high byte is 3.
    pub const fn is_tls(self) -> bool {
        self.0 >> 8 == 3
    }

    /// DTLS 1.0, 1.2, 1.3 (the high byte is 0xfe), or the one before the RFC.
    pub const fn is_dtls(self) -> bool {
        self.0 >> 8 == 0xfe || self.0 == Self::DTLS_BAD.0
    }

    /// TLS 1.3 or later, DTLS 1.3 or later, or a draft of TLS 1.3: everything behind the ServerHello is encrypted, and the session ID is but
    /// an echo.
    pub const fn is_1_3_or_later(self) -> bool {
        match self.0 >> 8 {
            3 => self.0 >= Self::TLS1_3.0,
            0x7f => true,
            0xfe => self.0 <= Self::DTLS1_3.0,
            _ => false,
        }
    }

    /// A reserved value that clients send to keep servers honest (RFC 8701).
    pub const fn is_grease(self) -> bool {
        is_grease(self.0)
    }
}

/// Whether a 16-bit code point is one of the reserved values of RFC 8701: `0x?a?a` with both digits the same.
pub const fn is_grease(value: u16) -> bool {
    value & 0x0f0f == 0x0a0a && value >> 8 == value & 0xff
}

codepoint! {
    /// `ContentType` of a record (RFC 8446, 5.1).
    ContentType(u8), 2 {
        /// Change to the negotiated protection; in TLS 1.3 a decoy.
        CHANGE_CIPHER_SPEC = 20 => "change_cipher_spec",
        /// An alert.
        ALERT = 21 => "alert",
        /// Handshake messages.
        HANDSHAKE = 22 => "handshake",
        /// Application data; in TLS 1.3 anything encrypted.
        APPLICATION_DATA = 23 => "application_data",
        /// RFC 6520.
        HEARTBEAT = 24 => "heartbeat",
    }
}

codepoint! {
    /// `HandshakeType` of a message (RFC 8446, 4; RFC 5246, 7.4; RFC 6347, 4.3.2).
    HandshakeType(u8), 2 {
        /// A server asks for renegotiation.
        HELLO_REQUEST = 0 => "hello_request",
        /// The client's offer.
        CLIENT_HELLO = 1 => "client_hello",
        /// The server's choice, or a HelloRetryRequest.
        SERVER_HELLO = 2 => "server_hello",
        /// DTLS: the server asks for its cookie back.
        HELLO_VERIFY_REQUEST = 3 => "hello_verify_request",
        /// A ticket (RFC 5077, or encrypted in TLS 1.3).
        NEW_SESSION_TICKET = 4 => "new_session_ticket",
        /// A certificate chain: the mark of a full handshake.
        CERTIFICATE = 11 => "certificate",
        /// The server's ephemeral key.
        SERVER_KEY_EXCHANGE = 12 => "server_key_exchange",
        /// The server asks for a client certificate.
        CERTIFICATE_REQUEST = 13 => "certificate_request",
        /// End of the server's first flight of a full handshake up to TLS 1.2.
        SERVER_HELLO_DONE = 14 => "server_hello_done",
        /// Proof of the certificate's key.
        CERTIFICATE_VERIFY = 15 => "certificate_verify",
        /// The client's key of a full handshake up to TLS 1.2.
        CLIENT_KEY_EXCHANGE = 16 => "client_key_exchange",
        /// First protected message.
        FINISHED = 20 => "finished",
        /// OCSP answer (RFC 6066).
        CERTIFICATE_STATUS = 22 => "certificate_status",
    }
}

codepoint! {
    /// `ExtensionType` of a hello.
    ExtensionType(u16), 4 {
        /// RFC 6066, 3.
        SERVER_NAME = 0 => "server_name",
        /// RFC 7301.
        ALPN = 16 => "application_layer_protocol_negotiation",
        /// RFC 5077.
        SESSION_TICKET = 35 => "session_ticket",
        /// RFC 8446, 4.2.11.
        PRE_SHARED_KEY = 41 => "pre_shared_key",
        /// RFC 8446, 4.2.10.
        EARLY_DATA = 42 => "early_data",
        /// RFC 8446, 4.2.1.
        SUPPORTED_VERSIONS = 43 => "supported_versions",
        /// RFC 8446, 4.2.2.
        COOKIE = 44 => "cookie",
        /// RFC 8446, 4.2.8.
        KEY_SHARE = 51 => "key_share",
        /// Encrypted Client Hello (RFC 9849), or GREASE in its shape.
        ENCRYPTED_CLIENT_HELLO = 0xfe0d => "encrypted_client_hello",
    }
}

codepoint! {
    /// `CipherSuite`.
    CipherSuite(u16), 4 {
        /// Signals secure renegotiation (RFC 5746).
        EMPTY_RENEGOTIATION_INFO = 0x00ff => "TLS_EMPTY_RENEGOTIATION_INFO_SCSV",
        /// Signals that a client fell back to a lower version (RFC 7507).
        FALLBACK = 0x5600 => "TLS_FALLBACK_SCSV",
        /// RFC 8446, B.4.
        AES_128_GCM_SHA256 = 0x1301 => "TLS_AES_128_GCM_SHA256",
        /// RFC 8446, B.4.
        AES_256_GCM_SHA384 = 0x1302 => "TLS_AES_256_GCM_SHA384",
        /// RFC 8446, B.4.
        CHACHA20_POLY1305_SHA256 = 0x1303 => "TLS_CHACHA20_POLY1305_SHA256",
    }
}

codepoint! {
    /// `NamedGroup` of a key share (RFC 8446, 4.2.7).
    NamedGroup(u16), 4 {
        /// NIST P-256.
        SECP256R1 = 0x0017 => "secp256r1",
        /// NIST P-384.
        SECP384R1 = 0x0018 => "secp384r1",
        /// NIST P-521.
        SECP521R1 = 0x0019 => "secp521r1",
        /// Curve25519.
        X25519 = 0x001d => "x25519",
        /// Curve448.
        X448 = 0x001e => "x448",
        /// Post-quantum hybrid; its share makes a ClientHello longer than one segment.
        X25519MLKEM768 = 0x11ec => "X25519MLKEM768",
    }
}

codepoint! {
    /// `AlertLevel`.
    AlertLevel(u8), 2 {
        /// The connection may go on.
        WARNING = 1 => "warning",
        /// The connection ends.
        FATAL = 2 => "fatal",
    }
}

codepoint! {
    /// `AlertDescription` (RFC 8446, 6).
    AlertDescription(u8), 2 {
        /// Orderly end.
        CLOSE_NOTIFY = 0 => "close_notify",
        /// Out of place.
        UNEXPECTED_MESSAGE = 10 => "unexpected_message",
        /// No common parameters.
        HANDSHAKE_FAILURE = 40 => "handshake_failure",
        /// A field out of range.
        ILLEGAL_PARAMETER = 47 => "illegal_parameter",
        /// The issuer is not known.
        UNKNOWN_CA = 48 => "unknown_ca",
        /// A message could not be read.
        DECODE_ERROR = 50 => "decode_error",
        /// No common version.
        PROTOCOL_VERSION = 70 => "protocol_version",
        /// Our fault.
        INTERNAL_ERROR = 80 => "internal_error",
        /// No such name.
        UNRECOGNIZED_NAME = 112 => "unrecognized_name",
    }
}
