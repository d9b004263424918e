use super::*;
use crate::capture::pcapng::PcapngWriter;

fn word(big: bool, v: u32) -> [u8; 4] {
    if big { v.to_be_bytes() } else { v.to_le_bytes() }
}

fn half(big: bool, v: u16) -> [u8; 2] {
    if big { v.to_be_bytes() } else { v.to_le_bytes() }
}

fn pcap(big: bool, magic: u32, link: u32, frames: &[(u32, u32, &[u8], u32)]) -> Vec<u8> {
    let mut file = Vec::new();
    file.extend(word(big, magic));
    file.extend(half(big, 2));
    file.extend(half(big, 4));
    file.extend([0; 8]);
    file.extend(word(big, 65_535));
    file.extend(word(big, link));
    for (sec, fraction, bytes, original) in frames {
        for v in [*sec, *fraction, bytes.len() as u32, *original] {
            file.extend(word(big, v));
        }
        file.extend(*bytes);
    }
    file
}

fn block(big: bool, kind: u32, body: &[u8]) -> Vec<u8> {
    let body_len = body.len().next_multiple_of(4);
    let mut out = Vec::new();
    out.extend(word(big, kind));
    out.extend(word(big, body_len as u32 + 12));
    out.extend(body);
    out.resize(8 + body_len, 0);
    out.extend(word(big, body_len as u32 + 12));
    out
}

fn section(big: bool) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(word(big, 0x1a2b_3c4d));
    body.extend(half(big, 1));
    body.extend(half(big, 0));
    body.extend([0xff; 8]);
    block(big, 0x0a0d_0d0a, &body)
}

fn interface(big: bool, link: u16, snaplen: u32, options: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(half(big, link));
    body.extend([0; 2]);
    body.extend(word(big, snaplen));
    for (code, value) in options {
        body.extend(half(big, *code));
        body.extend(half(big, value.len() as u16));
        body.extend(*value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    body.extend([0; 4]);
    block(big, 1, &body)
}

fn enhanced(big: bool, id: u32, ticks: u64, bytes: &[u8], original: u32) -> Vec<u8> {
    let mut body = Vec::new();
    for v in [id, (ticks >> 32) as u32, ticks as u32, bytes.len() as u32, original] {
        body.extend(word(big, v));
    }
    body.extend(bytes);
    block(big, 6, &body)
}

/// Numbers, times, links, bytes and original lengths of all frames; and the error at the end, if any.
type Read = (Vec<(u64, u64, u16, Vec<u8>, usize)>, Option<String>);

fn read(file: Vec<u8>) -> Read {
    let capture = Capture::from_bytes(file).unwrap();
    let mut frames = Vec::new();
    let mut error = None;
    for frame in capture.frames().unwrap() {
        match frame {
            Ok(f) => frames.push((f.number, f.unix_nanos, f.link.0, f.bytes.to_vec(), f.original_len)),
            Err(e) => error = Some(e.to_string()),
        }
    }
    (frames, error)
}

#[test]
fn pcap_is_read_in_both_byte_orders_and_both_resolutions() {
    for big in [false, true] {
        for (magic, unit) in [(0xa1b2_c3d4, 1000), (0xa1b2_3c4d, 1)] {
            let (frames, error) = read(pcap(big, magic, 1, &[(7, 9, b"abc", 3), (8, 1, b"de", 60)]));
            assert_eq!(error, None);
            let expected = vec![
                (1, 7_000_000_000 + 9 * unit, 1, b"abc".to_vec(), 3),
                (2, 8_000_000_000 + unit, 1, b"de".to_vec(), 60),
            ];
            assert_eq!(frames, expected, "big endian {big}, magic {magic:x}");
        }
    }
}

#[test]
fn pcapng_interfaces_have_links_resolutions_and_offsets_of_their_own() {
    for big in [false, true] {
        let offset = if big { 100i64.to_be_bytes() } else { 100i64.to_le_bytes() };
        let mut file = section(big);
        file.extend(interface(big, 1, 0, &[]));
        file.extend(interface(big, 101, 0, &[(9, &[9])]));
        file.extend(interface(big, 113, 0, &[(2, b"any"), (9, &[0x80 | 10]), (14, &offset)]));
        file.extend(block(big, 0x0bad, b"a block nobody knows"));
        file.extend(enhanced(big, 0, 5_000_001, b"micro", 5));
        file.extend(enhanced(big, 1, 5_000_000_002, b"nano", 1500));
        file.extend(enhanced(big, 2, 1024 * 3 + 512, b"binary", 6));
        let (frames, error) = read(file);
        assert_eq!(error, None);
        let expected = vec![
            (1, 5_000_001_000, 1, b"micro".to_vec(), 5),
            (2, 5_000_000_002, 101, b"nano".to_vec(), 1500),
            (3, 103_500_000_000, 113, b"binary".to_vec(), 6),
        ];
        assert_eq!(frames, expected, "big endian {big}");
    }
}

#[test]
fn pcapng_sections_may_change_byte_order_and_begin_interfaces_anew() {
    let mut file = section(false);
    file.extend(interface(false, 1, 0, &[]));
    file.extend(enhanced(false, 0, 1, b"one", 3));
    file.extend(section(true));
    file.extend(interface(true, 101, 0, &[]));
    file.extend(enhanced(true, 0, 2, b"two", 3));
    let (frames, error) = read(file);
    assert_eq!(error, None);
    assert_eq!(frames.iter().map(|f| (f.0, f.2)).collect::<Vec<_>>(), [(1, 1), (2, 101)]);
}

#[test]
fn simple_and_obsolete_packet_blocks_are_frames_too() {
    let mut file = section(false);
    file.extend(interface(false, 1, 4, &[]));
    let mut simple = 9u32.to_le_bytes().to_vec();
    simple.extend(b"abcd");
    file.extend(block(false, 3, &simple));
    let mut obsolete = vec![0, 0, 0, 0];
    for v in [0u32, 77, 2, 2] {
        obsolete.extend(v.to_le_bytes());
    }
    obsolete.extend(b"xy");
    file.extend(block(false, 2, &obsolete));
    let (frames, error) = read(file);
    assert_eq!(error, None);
    let kept: Vec<_> = frames.iter().map(|f| (f.0, f.3.as_slice(), f.4)).collect();
    assert_eq!(kept, [(1, &b"abcd"[..], 9), (2, &b"xy"[..], 2)], "cut to the snap length, and padding is not data");
}

#[test]
fn what_was_written_is_read_back() {
    let mut writer = PcapngWriter::new(Vec::new(), "test").unwrap();
    let first = writer.interface("client side", LinkType::ETHERNET).unwrap();
    let second = writer.interface("server side", LinkType::RAW).unwrap();
    let stamp = 1_763_808_123_123_456_789;
    writer.frame(first, stamp, b"hello", None).unwrap();
    writer.frame(second, stamp + 1, b"world!", Some("said by the server")).unwrap();
    let (frames, error) = read(writer.finish().unwrap());
    assert_eq!(error, None);
    assert_eq!(frames, [(1, stamp, 1, b"hello".to_vec(), 5), (2, stamp + 1, 101, b"world!".to_vec(), 6)]);
}

#[test]
fn a_capture_cut_off_anywhere_yields_its_whole_frames_and_then_one_error() {
    let whole = pcap(false, 0xa1b2_c3d4, 1, &[(1, 0, b"first", 5), (2, 0, b"second", 6)]);
    let ends = [24, 24 + 16 + 5, whole.len()];
    for cut in 24..whole.len() {
        let (frames, error) = read(whole[..cut].to_vec());
        assert_eq!(frames.len(), ends[1..].iter().filter(|end| **end <= cut).count(), "cut at {cut}");
        assert_eq!(error.is_none(), ends.contains(&cut), "cut at {cut}");
        assert!(error.is_none_or(|e| e.contains("is cut off")), "cut at {cut}");
    }
    let mut ng = section(false);
    ng.extend(interface(false, 1, 0, &[]));
    ng.extend(enhanced(false, 0, 1, b"one", 3));
    let (frames, error) = read(ng[..ng.len() - 1].to_vec());
    assert!(frames.is_empty() && error.unwrap().contains("is cut off"));
}

#[test]
fn absurd_lengths_are_damage_and_cost_nothing() {
    let mut file = pcap(false, 0xa1b2_c3d4, 1, &[(1, 0, b"good", 4)]);
    for v in [2u32, 0, 0x7fff_ffff, 60] {
        file.extend(v.to_le_bytes());
    }
    let (frames, error) = read(file);
    assert_eq!(frames.len(), 1);
    assert_eq!(error.unwrap(), "is damaged at byte 44, after frame 1: a record claims an absurd length");

    let mut ng = section(false);
    ng.extend(enhanced(false, 3, 1, b"one", 3));
    assert!(read(ng).1.unwrap().contains("not described"));
    let mut ng = section(false);
    ng.extend([6, 0, 0, 0, 0xfc, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    assert!(read(ng).1.unwrap().contains("absurd length"));
    let mut ng = section(false);
    ng.extend([6, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
    assert!(read(ng).1.unwrap().contains("impossible length"));
}

#[test]
fn what_is_no_capture_is_told_so() {
    let told = |bytes: &[u8]| Capture::from_bytes(bytes.to_vec()).err().unwrap().to_string();
    assert_eq!(told(b""), "is empty");
    assert_eq!(told(b"a"), "is not a pcap or pcapng capture");
    assert_eq!(told(b"GET / HTTP/1.1\r\nHost: www.example.test\r\n\r\n"), "is not a pcap or pcapng capture");
    assert_eq!(told(b"\x0a\x0d\x0d\x0aand something else entirely"), "is not a pcap or pcapng capture");
    assert!(told(b"\x1f\x8b\x08\x00\x00\x00\x00\x00").contains("gzip"));
    assert!(told(&0xa1b2_c3d4u32.to_le_bytes()).contains("cut off"));
    let missing = Capture::open(Path::new("no/such/file.pcap")).err().unwrap().to_string();
    assert!(missing.starts_with("cannot be read"), "{missing}");
}

#[test]
fn time_never_runs_backwards() {
    let file = pcap(false, 0xa1b2_c3d4, 1, &[(10, 0, b"a", 1), (9, 0, b"b", 1), (11, 0, b"c", 1)]);
    let capture = Capture::from_bytes(file).unwrap();
    let times: Vec<u64> = capture.frames().unwrap().map(|f| f.unwrap().time.as_secs()).collect();
    assert_eq!(times, [0, 0, 1]);
}
