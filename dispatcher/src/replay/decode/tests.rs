use super::*;
use crate::time::Time;

fn frame(link: LinkType, bytes: &[u8], original_len: usize) -> RecordedFrame<'_> {
    RecordedFrame { number: 1, time: Time::ZERO, unix_nanos: 0, interface: 0, link, bytes, original_len }
}

fn tcp_header(payload: &[u8]) -> Vec<u8> {
    let mut b = vec![0xc0, 0x00, 0x01, 0xbb];
    b.extend(7u32.to_be_bytes());
    b.extend(9u32.to_be_bytes());
    b.extend([0x60, 0x18, 0x10, 0x00, 0, 0, 0, 0, 1, 1, 1, 0]);
    b.extend(payload);
    b
}

fn ipv4(protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut b = vec![0x45, 0];
    b.extend((20 + body.len() as u16).to_be_bytes());
    b.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    b.extend(body);
    b
}

fn ipv6(next: u8, body: &[u8]) -> Vec<u8> {
    let mut b = vec![0x60, 0, 0, 0];
    b.extend((body.len() as u16).to_be_bytes());
    b.extend([next, 64]);
    b.extend("fd00::1".parse::<Ipv6Addr>().unwrap().octets());
    b.extend("fd00::2".parse::<Ipv6Addr>().unwrap().octets());
    b.extend(body);
    b
}

fn ethernet(tags: &[(u16, u16)], kind: u16, packet: &[u8]) -> Vec<u8> {
    let mut b = vec![2; 12];
    for (tpid, tci) in tags {
        b.extend(tpid.to_be_bytes());
        b.extend(tci.to_be_bytes());
    }
    b.extend(kind.to_be_bytes());
    b.extend(packet);
    b
}

fn payload_of<'a>(decoded: &Decoded<'a>) -> (&'a [u8], usize) {
    match decoded.transport {
        Transport::Tcp(s) => (s.payload, s.missing),
        Transport::Udp { payload, missing } => (payload, missing),
    }
}

#[test]
fn padding_is_not_payload() {
    let mut bytes = ethernet(&[], 0x0800, &ipv4(6, &tcp_header(b"hi")));
    bytes.extend(b"\x16\x03\x01 padding that looks like TLS");
    let decoded = decode(&frame(LinkType::ETHERNET, &bytes, bytes.len())).unwrap();
    assert_eq!(payload_of(&decoded), (&b"hi"[..], 0));
    assert_eq!((decoded.src.to_string(), decoded.dst.to_string()), ("10.0.0.1:49152".into(), "10.0.0.2:443".into()));
    let Transport::Tcp(segment) = decoded.transport else { panic!() };
    assert_eq!((segment.seq, segment.ack, segment.window), (Seq(7), Some(Seq(9)), 0x1000));
    assert_eq!(segment.options, [1, 1, 1, 0]);
}

#[test]
fn stacks_of_tags_are_read_outermost_first() {
    let tags = [(0x88a8, 300), (0x9100, 0xe000 | 7), (0x8100, 40), (0x8100, 0)];
    let bytes = ethernet(&tags, 0x86dd, &ipv6(6, &tcp_header(b"x")));
    let decoded = decode(&frame(LinkType::ETHERNET, &bytes, bytes.len())).unwrap();
    assert_eq!(decoded.vlans.as_slice(), [300, 7, 40, 0]);
    assert_eq!(decoded.src.to_string(), "[fd00::1]:49152");
}

#[test]
fn ipv6_extension_headers_are_stepped_over() {
    let tcp = tcp_header(b"deep");
    // Hop-by-hop, destination options of 16 bytes, routing, an atomic fragment, authentication of 24 bytes, TCP.
    let mut body = vec![60, 0, 1, 4, 0, 0, 0, 0];
    body.extend([43, 1]);
    body.extend([0; 14]);
    body.extend([44, 0, 0, 0, 0, 0, 0, 0]);
    body.extend([51, 0, 0, 0, 0, 0, 0, 9]);
    body.extend([6, 4]);
    body.extend([0; 22]);
    body.extend(&tcp);
    let bytes = ethernet(&[], 0x86dd, &ipv6(0, &body));
    let decoded = decode(&frame(LinkType::ETHERNET, &bytes, bytes.len())).unwrap();
    assert_eq!(payload_of(&decoded), (&b"deep"[..], 0));
}

#[test]
fn pieces_of_packets_are_told_from_whole_ones() {
    let mut first = ipv4(6, &tcp_header(b"x"));
    first[6] = 0x20;
    let bytes = ethernet(&[], 0x0800, &first);
    assert_eq!(decode(&frame(LinkType::ETHERNET, &bytes, bytes.len())).unwrap_err(), Undecoded::Fragment);
    let mut body = vec![6, 0, 0, 1, 0, 0, 0, 9];
    body.extend(tcp_header(b"x"));
    let bytes = ethernet(&[], 0x86dd, &ipv6(44, &body));
    assert_eq!(decode(&frame(LinkType::ETHERNET, &bytes, bytes.len())).unwrap_err(), Undecoded::Fragment);
}

#[test]
fn what_the_recorder_cut_off_is_counted() {
    let whole = ethernet(&[], 0x0800, &ipv4(6, &tcp_header(b"0123456789")));
    let cut = &whole[..whole.len() - 6];
    let decoded = decode(&frame(LinkType::ETHERNET, cut, whole.len())).unwrap();
    assert_eq!(payload_of(&decoded), (&b"0123"[..], 6));
}

#[test]
fn a_length_of_zero_means_the_whole_frame() {
    let mut packet = ipv4(6, &tcp_header(b"not yet cut into segments"));
    packet[2..4].fill(0);
    let bytes = ethernet(&[], 0x0800, &packet);
    let decoded = decode(&frame(LinkType::ETHERNET, &bytes, bytes.len())).unwrap();
    assert_eq!(payload_of(&decoded).0, b"not yet cut into segments");
}

#[test]
fn other_link_layers_carry_the_same_packets() {
    let packet = ipv4(6, &tcp_header(b"x"));
    let with = |head: &[u8]| [head, &packet].concat();
    let sll = with(&[&[0; 14][..], &[8, 0]].concat());
    let sll2 = with(&[&[8, 0][..], &[0; 18]].concat());
    let cases = [
        (LinkType::RAW, packet.clone()),
        (LinkType::IPV4, packet.clone()),
        (LinkType::NULL, with(&[2, 0, 0, 0])),
        (LinkType::LOOP, with(&[0, 0, 0, 2])),
        (LinkType::LINUX_SLL, sll),
        (LinkType::LINUX_SLL2, sll2),
    ];
    for (link, bytes) in cases {
        let decoded = decode(&frame(link, &bytes, bytes.len())).unwrap_or_else(|e| panic!("{link:?}: {e:?}"));
        assert_eq!(payload_of(&decoded), (&b"x"[..], 0), "{link:?}");
    }
    assert_eq!(decode(&frame(LinkType(105), &packet, packet.len())).unwrap_err(), Undecoded::LinkType(LinkType(105)));
}

#[test]
fn udp_is_cut_to_its_own_length() {
    let mut udp = vec![0, 53, 0x11, 0x51, 0, 11, 0, 0];
    udp.extend(b"abcdef");
    let bytes = ethernet(&[], 0x0800, &ipv4(17, &udp));
    let decoded = decode(&frame(LinkType::ETHERNET, &bytes, bytes.len())).unwrap();
    assert_eq!(payload_of(&decoded), (&b"abc"[..], 0));
}

#[test]
fn no_cut_and_no_flipped_byte_makes_it_panic() {
    let mut body = vec![60, 0, 1, 4, 0, 0, 0, 0];
    body.extend([6, 1]);
    body.extend([0; 14]);
    body.extend(tcp_header(b"payload"));
    for whole in [ethernet(&[(0x8100, 5)], 0x86dd, &ipv6(0, &body)), ethernet(&[], 0x0800, &ipv4(6, &tcp_header(b"p")))]
    {
        for cut in 0..=whole.len() {
            let _ = decode(&frame(LinkType::ETHERNET, &whole[..cut], whole.len()));
            let _ = decode(&frame(LinkType::ETHERNET, &whole[..cut], cut));
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x0f, 0x40, 0x60, 0x7f, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                let _ = decode(&frame(LinkType::ETHERNET, &bytes, bytes.len()));
            }
        }
    }
}
