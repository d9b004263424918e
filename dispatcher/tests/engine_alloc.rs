//! The paths that see every frame allocate nothing.

use dispatcher::engine::{ConnectionRecord, Effects, PortId, Verdict};
use dispatcher::wire::Frame;
use dispatcher::wire::checksum::Sum;
use sim::config::two_armed;
use sim::script::{ACK, Bench, SYN, Seg, linux, seg, written};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting calls by thread.
struct Counting;

// SAFETY: every call is passed on unchanged to the system's allocator; the counter is a plain cell of the thread, which is
// const-initialised and has no destructor, so that reaching it neither allocates nor fails.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Nothing;
impl Effects for Nothing {
    fn transmit(&mut self, _: PortId, _: &[u8]) -> bool {
        true
    }
    fn connection_ended(&mut self, _: &ConnectionRecord<'_>) {}
}

/// Hands the frame in so often; returns how many allocations that took.
fn allocations(b: &mut Bench, port: u8, frame: &[u8], times: usize, fate: fn(Verdict) -> bool) -> usize {
    let mut buffer = [0; 2048];
    // Its twin would allocate.
    b.engine.part();
    let before = ALLOCATIONS.with(Cell::get);
    for _ in 0..times {
        buffer[64..64 + frame.len()].copy_from_slice(frame);
        let mut f = Frame::new(&mut buffer, 64, frame.len());
        let verdict = b.engine.handle(PortId(port), &mut f, b.now, &mut Nothing);
        assert!(fate(verdict), "{verdict:?}");
        b.engine.poll(b.now, &mut Nothing);
    }
    ALLOCATIONS.with(Cell::get) - before
}

#[test]
fn the_counter_counts() {
    let before = ALLOCATIONS.with(Cell::get);
    drop(std::hint::black_box(vec![1u8; 100]));
    assert!(ALLOCATIONS.with(Cell::get) > before);
}

#[test]
fn known_flows_are_forwarded_without_an_allocation() {
    for v6 in [false, true] {
        let mut b = Bench::new(two_armed(1, v6), v6);
        b.splice(b"GET / HTTP/1.0\r\n\r\n");
        let from_client = b.client_frame(&seg(ACK, 19, 1, &[b'x'; 1000]));
        let from_server = b.server_frame(&seg(ACK, 1, 19, &[b'y'; 1000]));
        let forwarded = |v| matches!(v, Verdict::Forward(_));
        assert_eq!(allocations(&mut b, 0, &from_client, 10_000, forwarded), 0);
        assert_eq!(allocations(&mut b, 1, &from_server, 10_000, forwarded), 0);
    }
}

#[test]
fn segments_are_cut_for_a_narrow_path_without_an_allocation() {
    let mut b = Bench::new(two_armed(1, false), false);
    b.splice(b"GET / HTTP/1.0\r\n\r\n");
    let from_server = b.server_frame(&seg(ACK, 1, 19, &[b'y'; 1400]));
    let (out, _) = b.hand_in(1, &from_server);
    // From a router between us and the client.
    let mut back = out[0].bytes.clone();
    let ip = out[0].ip();
    back.truncate(ip.payload + 20);
    let error = too_big(&b, &back[ip.header..], 600);
    assert_eq!(b.hand_in(0, &error).1, Verdict::Hold);
    let made = b.engine.counters().made;
    assert_eq!(allocations(&mut b, 1, &from_server, 10_000, |v| matches!(v, Verdict::Forward(_))), 0);
    assert_eq!(b.engine.counters().made - made, 20_000, "three pieces each");
}

/// ICMP "fragmentation needed" that quotes a packet.
fn too_big(b: &Bench, quote: &[u8], mtu: u16) -> Vec<u8> {
    let [hi, lo] = mtu.to_be_bytes();
    let mut icmp = [&[3, 4, 0, 0, 0, 0, hi, lo][..], quote].concat();
    let sum = Sum::default().add_bytes(&icmp).checksum();
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut head = [&[0x45, 0][..], &(20 + icmp.len() as u16).to_be_bytes(), &[0, 0, 0, 0, 60, 1, 0, 0]].concat();
    head.extend([&[10, 15, 0, 1], &quote[12..16]].concat());
    let sum = Sum::default().add_bytes(&head).checksum();
    head[10..12].copy_from_slice(&sum.to_be_bytes());
    [&b.config.ports[0].mac.0[..], &[2, 0, 0, 0, 9, 1, 8, 0], &head, &icmp].concat()
}

#[test]
fn syns_and_nonsense_are_answered_and_dropped_without_an_allocation() {
    let mut b = Bench::new(two_armed(1, false), false);
    let options = written(&linux());
    let syn = b.client_frame(&Seg { options: &options, ..seg(SYN, 0, 0, &[]) });
    assert_eq!(allocations(&mut b, 0, &syn, 10_000, |v| matches!(v, Verdict::Reply(_))), 0);
    let guess = b.client_frame(&seg(ACK, 1, 1, &[b'x'; 1000]));
    assert_eq!(allocations(&mut b, 0, &guess, 10_000, |v| matches!(v, Verdict::Reply(_) | Verdict::Drop(_))), 0);
    assert_eq!(allocations(&mut b, 0, &syn[..20], 10_000, |v| matches!(v, Verdict::Drop(_))), 0);
}

#[test]
fn a_hello_is_read_and_its_server_chosen_and_dialled_without_an_allocation() {
    let mut b = Bench::new(two_armed(1, false), false);
    let hello = sim::tls::Hello { at_least: 600, ..Default::default() }.bytes();
    b.client_syn(&linux());
    let stamp = b.stamp(5001);
    let first = b.client_frame(&Seg { options: &stamp, ..seg(ACK, 1, 1, &hello) });
    assert_eq!(allocations(&mut b, 0, &first, 1, |v| v == Verdict::Hold), 0);
    assert_eq!((b.engine.counters().secure, b.engine.counters().dials), (1, 1));
}
