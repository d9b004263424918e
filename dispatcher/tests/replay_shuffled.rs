//! What a recorder may do to a capture without changing what was said: the same streams must be read.

mod captures;

use captures::{all_captures, capture};
use dispatcher::capture::pcapng::PcapngWriter;
use dispatcher::capture::{Capture, LinkType};
use dispatcher::replay::inspect::{StreamReport, inspect};
use serde_json::{Value, json};

/// A frame to be written again.
#[derive(Clone)]
struct Frame {
    nanos: u64,
    link: LinkType,
    bytes: Vec<u8>,
}

fn frames(path: &std::path::Path) -> Vec<Frame> {
    let capture = Capture::open(path).unwrap();
    let frames = capture.frames().unwrap().map(Result::unwrap);
    frames.map(|f| Frame { nanos: f.unix_nanos, link: f.link, bytes: f.bytes.to_vec() }).collect()
}

/// Written over two interfaces in turn, as a mirror port and its twin would.
fn write(frames: &[Frame]) -> Capture {
    let mut writer = PcapngWriter::new(Vec::new(), "test").unwrap();
    let link = frames.first().map_or(LinkType::ETHERNET, |f| f.link);
    let interfaces = [writer.interface("one", link).unwrap(), writer.interface("two", link).unwrap()];
    for (i, f) in frames.iter().enumerate() {
        writer.frame(interfaces[i % 2], f.nanos, &f.bytes, (i % 5 == 0).then_some("a comment")).unwrap();
    }
    Capture::from_bytes(writer.finish().unwrap()).unwrap()
}

/// What was said, by connection, without frame numbers and times.
fn said(capture: &Capture) -> Vec<Value> {
    let strip = |stream: StreamReport| {
        let mut v = serde_json::to_value(stream).unwrap();
        for list in ["client_hellos", "server_hellos", "new_session_tickets"] {
            v[list].as_array_mut().unwrap().iter_mut().for_each(|x| x["frame"] = json!(0));
        }
        v["first_frame"] = json!(0);
        v["first_time"] = json!("");
        v
    };
    let mut all: Vec<Value> = inspect(capture).streams.into_iter().map(strip).collect();
    all.sort_by_key(Value::to_string);
    all
}

fn same_after(name: &str, what: &str, original: &[Frame], changed: &[Frame]) {
    let (a, b) = (said(&write(original)), said(&write(changed)));
    assert_eq!(a.len(), b.len(), "{name}, {what}: number of streams");
    for (x, y) in a.iter().zip(&b) {
        assert_eq!(x, y, "{name}, {what}");
    }
}

/// Connections that are in the capture from their beginning, so that nothing rests on the order of their first frames.
fn whole_captures() -> Vec<std::path::PathBuf> {
    let some = ["begins_late", "quic", "dtls", "fleet", "port_reuse"];
    all_captures().into_iter().filter(|p| !some.iter().any(|s| p.to_string_lossy().contains(s))).collect()
}

#[test]
fn frames_recorded_twice_say_it_once() {
    for path in whole_captures() {
        let original = frames(&path);
        let doubled: Vec<Frame> = original.iter().flat_map(|f| [f.clone(), f.clone()]).collect();
        same_after(&path.to_string_lossy(), "doubled", &original, &doubled);
    }
}

fn is_reset(frame: &Frame) -> bool {
    let b = &frame.bytes;
    let mut at = 12;
    while matches!(b.get(at..at + 2), Some([0x81, 0] | [0x88, 0xa8])) {
        at += 4;
    }
    let flags = match b.get(at..at + 2) {
        Some([0x08, 0]) => at + 2 + 20 + 13,
        Some([0x86, 0xdd]) => at + 2 + 40 + 13,
        _ => return false,
    };
    b.get(flags).is_some_and(|f| f & 4 != 0)
}

#[test]
fn neighbours_recorded_in_the_wrong_order_say_the_same() {
    for path in whole_captures() {
        let original = frames(&path);
        for offset in [0, 1] {
            let mut swapped = original.clone();
            // Nothing is heard behind a reset, so that one has to stay where it is.
            swapped[offset..].chunks_exact_mut(2).filter(|pair| !pair.iter().any(is_reset)).for_each(|pair| {
                let nanos = pair[0].nanos;
                pair.swap(0, 1);
                (pair[0].nanos, pair[1].nanos) = (nanos, pair[0].nanos.max(nanos));
            });
            same_after(&path.to_string_lossy(), "swapped", &original, &swapped);
        }
    }
}

#[test]
fn other_link_layers_and_more_tags_say_the_same() {
    let path = capture("mix_curl_wget_python_node_nginx.pcap");
    let original = frames(&path);
    let only_ip: Vec<Frame> =
        original.iter().filter(|f| matches!(f.bytes[12..14], [0x08, 0x00] | [0x86, 0xdd])).cloned().collect();
    let raw: Vec<Frame> =
        only_ip.iter().map(|f| Frame { link: LinkType::RAW, bytes: f.bytes[14..].to_vec(), ..f.clone() }).collect();
    same_after("mix", "raw IP", &only_ip, &raw);
    let cooked = |f: &Frame| {
        let bytes = [&[0, 0, 0, 1, 0, 6, 2, 2, 2, 2, 2, 2, 0, 0][..], &f.bytes[12..]].concat();
        Frame { link: LinkType::LINUX_SLL, bytes, ..f.clone() }
    };
    same_after("mix", "cooked", &only_ip, &only_ip.iter().map(cooked).collect::<Vec<_>>());
}

#[test]
fn every_packet_fragmented_says_the_same() {
    for name in ["dtls12_openssl_resume.pcap", "tls12_ticket_openssl_nginx.pcap"] {
        let original = frames(&capture(name));
        let cut: Vec<Frame> = original.iter().enumerate().flat_map(|(i, f)| fragment(f, i as u16)).collect();
        assert!(cut.len() > original.len());
        same_after(name, "fragmented", &original, &cut);
    }
}

/// IPv4 packets with more than 40 bytes behind the IP header, in two pieces, the second first.
fn fragment(frame: &Frame, id: u16) -> Vec<Frame> {
    let b = &frame.bytes;
    if b.get(12..15) != Some(&[8, 0, 0x45]) {
        return vec![frame.clone()];
    }
    let total = 14 + usize::from(u16::from_be_bytes([b[16], b[17]]));
    let half = (total - 34) / 16 * 8;
    if half < 20 {
        return vec![frame.clone()];
    }
    let piece = |from: usize, to: usize, field: u16| {
        let mut bytes = [&b[..34], &b[34 + from..34 + to]].concat();
        let length = (bytes.len() - 14) as u16;
        bytes[16..18].copy_from_slice(&length.to_be_bytes());
        bytes[18..20].copy_from_slice(&id.to_be_bytes());
        bytes[20..22].copy_from_slice(&field.to_be_bytes());
        Frame { bytes, ..frame.clone() }
    };
    vec![piece(half, total - 34, (half / 8) as u16), piece(0, half, 0x2000)]
}

#[test]
fn every_segment_cut_into_two_says_the_same() {
    for name in ["tls12_sessionid_openssl_nginx.pcap", "tls13_hrr_openssl.pcap", "ssl3_openssl111.pcap"] {
        let original = frames(&capture(name));
        let cut: Vec<Frame> = original.iter().flat_map(cut_in_two).collect();
        assert!(cut.len() > original.len());
        same_after(name, "cut", &original, &cut);
    }
}

/// IPv4 and TCP only. The second half comes first, and they overlap in a byte.
fn cut_in_two(frame: &Frame) -> Vec<Frame> {
    let b = &frame.bytes;
    if b.get(12..14) != Some(&[8, 0]) || b[14] != 0x45 || b[23] != 6 {
        return vec![frame.clone()];
    }
    let total = 14 + usize::from(u16::from_be_bytes([b[16], b[17]]));
    let payload = 34 + usize::from(b[46] >> 4) * 4;
    let len = total - payload;
    if len < 4 || b[47] & 0x07 != 0 {
        return vec![frame.clone()];
    }
    let piece = |from: usize, to: usize| {
        let mut bytes = b[..payload].to_vec();
        bytes.extend(&b[payload + from..payload + to]);
        let ip_len = (bytes.len() - 14) as u16;
        bytes[16..18].copy_from_slice(&ip_len.to_be_bytes());
        let seq = u32::from_be_bytes([b[38], b[39], b[40], b[41]]).wrapping_add(from as u32);
        bytes[38..42].copy_from_slice(&seq.to_be_bytes());
        Frame { bytes, ..frame.clone() }
    };
    vec![piece(len / 2 - 1, len), piece(0, len / 2)]
}
