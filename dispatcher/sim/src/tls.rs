//! TLS bytes made by hand, as small as they may be (RFC 5246, RFC 5077, RFC 8446).

/// What a client is told when it has waited in vain for room at a server: a fatal alert, `internal_error` (RFC 8446, 6).
pub const ALERT: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 0x50];

/// What a ClientHello says.
#[derive(Clone)]
pub struct Hello {
    /// The server name; none: no such extension.
    pub sni: Option<&'static str>,
    /// Protocols of ALPN; none: no such extension.
    pub alpn: Vec<&'static str>,
    /// May be empty.
    pub session_id: Vec<u8>,
    /// Of TLS 1.2; an empty one asks for one.
    pub ticket: Option<Vec<u8>>,
    /// Identities, in order.
    pub psk: Vec<Vec<u8>>,
    /// Offers TLS 1.3.
    pub tls13: bool,
    /// With Encrypted Client Hello (draft-ietf-tls-esni-22 section 5): what is read here is the outer hello.
    pub ech: bool,
    /// Filled up with a padding extension (RFC 7685) to at least this many bytes on the wire.
    pub at_least: usize,
    /// Makes it differ from others.
    pub random: [u8; 32],
}

pub(crate) fn vec8(b: &[u8]) -> Vec<u8> {
    [&[b.len() as u8][..], b].concat()
}

pub(crate) fn vec16(b: &[u8]) -> Vec<u8> {
    [&(b.len() as u16).to_be_bytes()[..], b].concat()
}

pub(crate) fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vec16(body)].concat()
}

pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &(body.len() as u32).to_be_bytes()[1..], body].concat()
}

pub(crate) fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 3, 3][..], &vec16(body)].concat()
}

impl Default for Hello {
    /// TLS 1.2 with a server name, and nothing to resume.
    fn default() -> Hello {
        Hello {
            sni: Some("a.example"),
            alpn: vec![],
            session_id: vec![],
            ticket: None,
            psk: vec![],
            tls13: false,
            ech: false,
            at_least: 0,
            random: [0; 32],
        }
    }
}

impl Hello {
    /// The handshake message, without record headers.
    pub fn message(&self) -> Vec<u8> {
        let build = |padding: Option<usize>| {
            let mut extensions = vec![];
            if let Some(name) = self.sni {
                extensions.extend(extension(0, &vec16(&[&[0][..], &vec16(name.as_bytes())].concat())));
            }
            if !self.alpn.is_empty() {
                let names: Vec<u8> = self.alpn.iter().flat_map(|name| vec8(name.as_bytes())).collect();
                extensions.extend(extension(16, &vec16(&names)));
            }
            extensions.extend(extension(10, &vec16(&[0, 29])));
            extensions.extend(extension(13, &vec16(&[4, 3])));
            if let Some(ticket) = &self.ticket {
                extensions.extend(extension(35, ticket));
            }
            if self.tls13 {
                extensions.extend(extension(43, &vec8(&[3, 4, 3, 3])));
                extensions.extend(extension(45, &vec8(&[1])));
                extensions.extend(extension(51, &vec16(&[&[0, 29][..], &vec16(&[7; 32])].concat())));
            }
            if self.ech {
                // Outer; HKDF-SHA256 with AES-128-GCM; configuration 7; key and sealed inner hello.
                let sealed = [&[0, 0, 1, 0, 1, 7][..], &vec16(&[9; 32]), &vec16(&[0x5a; 160])].concat();
                extensions.extend(extension(0xfe0d, &sealed));
            }
            if let Some(n) = padding {
                extensions.extend(extension(21, &vec![0; n]));
            }
            if !self.psk.is_empty() {
                let ids: Vec<u8> = self.psk.iter().flat_map(|id| [vec16(id), vec![0, 0, 0, 9]].concat()).collect();
                let binders: Vec<u8> = self.psk.iter().flat_map(|_| vec8(&[5; 32])).collect();
                extensions.extend(extension(41, &[vec16(&ids), vec16(&binders)].concat()));
            }
            let mut body = vec![3, 3];
            body.extend(self.random);
            body.extend(vec8(&self.session_id));
            body.extend(vec16(&[0x13, 0x01, 0xc0, 0x2f]));
            body.extend(vec8(&[0]));
            body.extend(vec16(&extensions));
            message(1, &body)
        };
        let plain = build(None);
        match self.at_least.checked_sub(plain.len() + 5 + 4) {
            Some(n) => build(Some(n)),
            None => plain,
        }
    }

    /// On the wire, in one record (or as many as 2^14 bytes demand).
    pub fn bytes(&self) -> Vec<u8> {
        self.in_records(1 << 14)
    }

    /// On the wire, in records of at most so many bytes.
    pub fn in_records(&self, most: usize) -> Vec<u8> {
        self.message().chunks(most).flat_map(|part| record(22, part)).collect()
    }
}

/// A server's first flight.
#[derive(Clone)]
pub struct Flight {
    /// Of TLS 1.3.
    pub tls13: bool,
    /// In the hello.
    pub session_id: Vec<u8>,
    /// The first PSK was taken.
    pub psk_selected: bool,
    /// Announces and issues this ticket (TLS 1.2).
    pub ticket: Option<Vec<u8>>,
    /// An abbreviated handshake.
    pub resumed: bool,
    /// The random of the hello; servers here write into it what they mean.
    pub random: [u8; 32],
}

impl Flight {
    /// On the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut extensions = vec![];
        if self.tls13 {
            extensions.extend(extension(43, &[3, 4]));
            extensions.extend(extension(51, &[&[0, 29][..], &vec16(&[8; 32])].concat()));
            if self.psk_selected {
                extensions.extend(extension(41, &[0, 0]));
            }
        } else if self.ticket.is_some() {
            extensions.extend(extension(35, &[]));
        }
        let mut body = vec![3, 3];
        body.extend(self.random);
        body.extend(vec8(&self.session_id));
        body.extend(if self.tls13 { [0x13, 0x01] } else { [0xc0, 0x2f] });
        body.push(0);
        body.extend(vec16(&extensions));
        let mut out = record(22, &message(2, &body));
        let change_cipher_spec = record(20, &[1]);
        let encrypted = |kind, n: usize| record(kind, &vec![0xe7; n]);
        if self.tls13 {
            out.extend(change_cipher_spec);
            out.extend(encrypted(23, 3000));
            return out;
        }
        if !self.resumed {
            // Over several segments, as certificates are.
            out.extend(record(22, &message(11, &[&[0, 0x0b, 0xb8][..], &[0xce; 3000]].concat())));
            out.extend(record(22, &message(14, &[])));
        }
        if let Some(ticket) = &self.ticket {
            out.extend(record(22, &message(4, &[&[0, 0, 1, 0][..], &vec16(ticket)].concat())));
        }
        out.extend(change_cipher_spec);
        out.extend(encrypted(22, 40));
        out
    }
}
