use super::super::recording::Script;
use super::*;

fn server(skip: u32) -> Endpoint {
    let nobody = (Addr::v4([10, 0, 0, 1]), 443);
    Endpoint { skip, ..Endpoint::new(PortId(1), Link::default(), nobody, nobody, 1460) }
}

#[test]
fn every_byte_that_is_not_the_recorded_one_is_noticed() {
    let script = Script::of(b"recorded");
    for skip in [0, 3] {
        let sent = &b"hdrrecorded"[3 - skip as usize..];
        let mut end = server(skip);
        (0..sent.len()).rev().for_each(|at| end.compare(at as u32, &sent[at..], &script));
        assert!(!end.differs);
        assert_eq!(&end.header[..skip as usize], &b"hdr"[..skip as usize]);
        for at in skip as usize..sent.len() {
            let mut wrong = sent.to_vec();
            wrong[at] ^= 1;
            let mut end = server(skip);
            end.compare(0, &wrong, &script);
            assert!(end.differs, "{at}");
        }
        end.compare(0, &[sent, b"!"].concat(), &script);
        assert!(end.differs, "more than was recorded");
    }
}

#[test]
fn what_arrives_in_any_order_is_joined() {
    let mut end = server(0);
    for (from, to, first) in [(5, 7, Some((5, 7))), (1, 3, Some((1, 3))), (3, 5, Some((1, 7))), (9, 12, Some((1, 7)))] {
        end.insert(from, to);
        assert_eq!(end.ranges.first().copied(), first);
    }
    assert_eq!(end.ranges.len(), 2);
    (0..200).for_each(|i| end.insert(100 + 2 * i, 101 + 2 * i));
    assert_eq!(end.ranges.len(), RANGES, "and no more are kept");
}
