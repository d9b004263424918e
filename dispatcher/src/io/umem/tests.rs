//! Tests of the account of chunks, beside a naive one.

use super::*;
use proptest::prelude::*;

#[test]
fn what_the_kernel_cannot_have_is_not_believed() {
    let umem = Umem::new(2, 2048, Long::NONE).unwrap();
    assert!(umem.received(1, 0, 60).is_none(), "it was not lent");
    let address = umem.lend_to_kernel(1).unwrap();
    assert!(umem.received(1, address + 2000, 60).is_none(), "beyond its chunk");
    assert!(umem.received(1, 1 << 40, 60).is_none(), "beyond the memory");
    let slot = umem.received(1, address + 256, 60).unwrap();
    assert!(umem.received(1, address + 256, 60).is_none(), "a second time");
    assert!(!umem.sent(1, address + 256), "it is ours");
    let sending: Vec<_> = umem.to_send(1, slot).collect();
    assert_eq!(sending, [Part { address: address + 256, len: 60, goes_on: false }]);
    let sending = sending[0].address;
    assert!(umem.sent(1, sending) && !umem.sent(1, sending), "it comes back once");
    assert_eq!(umem.census().free, 2);
}

#[test]
fn what_one_port_has_is_not_another_ports_and_comes_back_when_its_device_is_gone() {
    let umem = Umem::new(4, 2048, Long::NONE).unwrap();
    let [a, b] = [1, 2].map(|port| umem.lend_to_kernel(port).unwrap());
    assert!(umem.received(2, a, 60).is_none() && umem.received(1, b, 60).is_none());
    let sending = umem.to_send(2, umem.copy_in(&[1; 60]).unwrap()).next().unwrap().address;
    let held = umem.copy_in(&[2; 60]).unwrap();
    assert!(!umem.sent(1, sending));
    umem.reclaim_receiving(1);
    assert_eq!(umem.reclaim_sending(1), 0);
    assert_eq!(umem.census(), Census { chunks: 4, free: 1, receiving: 1, held: 1, sending: 1 });
    assert_eq!(umem.reclaim_sending(2), 1);
    umem.reclaim_receiving(2);
    umem.release(held);
    assert_eq!(umem.census().free, 4);
    assert!(!umem.sent(2, sending), "told late");
}

#[test]
fn frames_keep_their_bytes_and_their_headroom() {
    let umem = Umem::new(2, 2048, Long::NONE).unwrap();
    let mut a = umem.copy_in(&[1, 2, 3]).unwrap();
    let b = umem.copy_in(&[9; 1900]).unwrap();
    assert!(umem.copy_in(&[0]).is_none(), "two chunks, both taken");
    let mut frame = umem.frame(&mut a);
    assert_eq!(frame.bytes(), [1, 2, 3]);
    assert!(frame.push_front(HEADROOM) && !frame.push_front(1));
    umem.release(a);
    umem.release(b);
    assert!(umem.copy_in(&[0; 2000]).is_none(), "does not fit");
    assert_eq!(umem.census().free, 2);
}

#[test]
fn a_long_frame_is_put_together_and_taken_apart_at_the_chunks_borders() {
    let umem = Umem::new(3, 2048, Long { buffers: 1, chunks: 3 }).unwrap();
    let frame: Vec<u8> = (0..5000).map(|i| (i * 7 + i / 251) as u8).collect();
    // As the kernel gives it: behind its headroom in each chunk.
    let mut whole = umem.long_buffer().unwrap();
    assert!(umem.long_buffer().is_none(), "there is one");
    for part in frame.chunks(2048 - KERNEL_HEADROOM) {
        let mut piece = umem.copy_in(part).unwrap();
        assert!(umem.append(&mut whole, &mut piece));
        umem.release(piece);
    }
    assert!(umem.frame(&mut whole).bytes() == frame);
    let mut rest = umem.copy_in(&[0; 1500]).unwrap();
    assert!(!umem.append(&mut whole, &mut rest), "headroom, and 5000: less than 1500 are left");
    umem.release(rest);
    assert_eq!(umem.parts_of(&whole), 3);
    let parts: Vec<_> = umem.to_send(1, whole).collect();
    let first = 3 * 2048;
    let expected = [
        (first + HEADROOM as u64, 2048 - HEADROOM as u32, true),
        (first + 2048, 2048, true),
        (first + 4096, 5000 - 4096 + HEADROOM as u32, false),
    ];
    assert_eq!(parts, expected.map(|(address, len, goes_on)| Part { address, len, goes_on }));
    assert!(umem.copy_in(&frame).is_none(), "it is under way");
    // In whatever order they come back.
    assert!(umem.sent(1, parts[2].address) && umem.sent(1, parts[0].address));
    assert!(!umem.sent(1, parts[0].address), "a second time");
    assert!(umem.copy_in(&frame).is_none(), "a part of it is under way");
    assert_eq!(umem.census(), Census { chunks: 6, free: 3, receiving: 0, held: 0, sending: 3 });
    assert!(umem.sent(1, parts[1].address));
    assert_eq!(umem.census().free, 6);
    // One that touches two chunks, and the device is gone with it: one frame.
    let mut slot = umem.copy_in(&frame).unwrap();
    slot.reframe(100, 2000);
    assert_eq!((umem.parts_of(&slot), umem.to_send(2, slot).count()), (2, 2));
    assert_eq!((umem.reclaim_sending(1), umem.reclaim_sending(2)), (0, 1));
    assert_eq!(umem.census().free, 6);
    assert!(umem.copy_in(&[0; 3 * 2048 - HEADROOM + 1]).is_none(), "longer than a long buffer");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Against a naive model: sets of indices. Whatever is done in whatever order, each chunk is in one place.
    #[test]
    fn no_order_of_events_loses_or_doubles_a_chunk(events in prop::collection::vec((0u8..7, 0usize..16), 0..400)) {
        let umem = Umem::new(16, 2048, Long { buffers: 3, chunks: 3 }).unwrap();
        let (mut kernel, mut held, mut sending) = (Vec::new(), Vec::new(), Vec::new());
        // Of long frames: those in our hands, and how many parts of each are under way.
        let (mut long, mut parts): (Vec<Slot>, Vec<Vec<Part>>) = Default::default();
        for (event, n) in events {
            match event {
                0 => if let Some(address) = umem.lend_to_kernel(1) { kernel.push(address) },
                1 if !kernel.is_empty() => {
                    let address = kernel.remove(n % kernel.len());
                    held.push(umem.received(1, address + 256, 64).unwrap());
                }
                2 => if let Some(slot) = umem.copy_in(&[n as u8; 60]) { held.push(slot) },
                3 if n % 2 == 0 && !long.is_empty() => umem.release(long.remove(n % long.len())),
                3 if !held.is_empty() => umem.release(held.remove(n % held.len())),
                4 if n % 2 == 0 && !long.is_empty() => {
                    let slot = long.remove(n % long.len());
                    let expected = umem.parts_of(&slot) as usize;
                    parts.push(umem.to_send(1, slot).collect());
                    prop_assert_eq!(parts.last().map(Vec::len), Some(expected));
                }
                4 if !held.is_empty() => sending.push(umem.to_send(1, held.remove(n % held.len())).next().unwrap().address),
                5 if n % 2 == 0 && !parts.is_empty() => {
                    let which = n % parts.len();
                    let left = parts[which].len();
                    let part = parts[which].remove(n % left);
                    prop_assert!(umem.sent(1, part.address) && !umem.sent(1, part.address));
                    parts.retain(|left| !left.is_empty());
                }
                5 if !sending.is_empty() => prop_assert!(umem.sent(1, sending.remove(n % sending.len()))),
                6 => if let Some(slot) = umem.copy_in(&vec![n as u8; 2000 + 250 * n]) { long.push(slot) },
                _ => {}
            }
            let free = 16 - kernel.len() - held.len() - sending.len() + 3 * (3 - long.len() - parts.len());
            let expected = Census {
                chunks: 25,
                free,
                receiving: kernel.len(),
                held: held.len() + 3 * long.len(),
                sending: sending.len() + 3 * parts.len(),
            };
            prop_assert_eq!(umem.census(), expected);
        }
    }
}

/// A worker in a sequence of takeovers: its account, and what it has where, as a naive model has it.
struct Worker {
    umem: Umem,
    /// Sockets, and addresses that the kernel has by them: for receiving, for sending.
    sockets: Vec<(u16, Vec<u64>, Vec<u64>)>,
    held: Vec<Slot>,
}

const RECEIVING: usize = 4;

impl Worker {
    fn step(&mut self, event: u8, n: usize) {
        let Worker { umem, sockets, held } = self;
        let which = n % sockets.len();
        let (socket, receiving, sending) = &mut sockets[which];
        match event {
            0 | 1 if receiving.len() < RECEIVING => receiving.extend(umem.lend_to_kernel(*socket)),
            2 if !receiving.is_empty() => {
                held.push(umem.received(*socket, receiving.remove(n % receiving.len()), 60).unwrap());
            }
            3 => held.extend(umem.copy_in(&vec![n as u8; if n.is_multiple_of(3) { 3000 } else { 60 }])),
            4 | 5 if !held.is_empty() => {
                sending.extend(umem.to_send(*socket, held.remove(n % held.len())).map(|part| part.address));
            }
            6 if !held.is_empty() => umem.release(held.remove(n % held.len())),
            7 if !sending.is_empty() => assert!(umem.sent(*socket, sending.remove(n % sending.len()))),
            _ => {}
        }
    }

    fn account(&self) -> Vec<u8> {
        let mut to = Packer::new();
        self.umem.pack(&mut to);
        to.into_bytes().split_off(4)
    }
}

/// One region, the queues of which go to so many workers: those of the next process, which take over from `before`.
fn succeed(before: Vec<Worker>, queues: u16, workers: usize) -> Vec<Worker> {
    let accounts: Vec<_> = before.iter().map(Worker::account).collect();
    let accounts: Vec<&[u8]> = accounts.iter().map(|account| &account[..]).collect();
    let worker_of = |socket: u16| usize::from(socket) % workers;
    let mut holders = Holders::default();
    (0..queues).for_each(|socket| holders.add(socket, worker_of(socket), RECEIVING));
    let (file, shape) = (&before[0].umem.file, before[0].umem.shape());
    let of_kernel: Vec<_> = before.iter().flat_map(|worker| worker.sockets.clone()).collect();
    let next = |worker| {
        let umem = Umem::of_another(file.try_clone().unwrap(), shape.singles, 2048, shape.long).unwrap();
        assert!(umem.copy_in(&[0]).is_none() && umem.lend_to_kernel(0).is_none(), "nothing is ours yet");
        umem.take_over(&accounts, &holders, worker).unwrap();
        let sockets = of_kernel.iter().filter(|(socket, ..)| worker_of(*socket) == worker).cloned().collect();
        Worker { umem, sockets, held: Vec::new() }
    };
    (0..workers).map(next).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever numbers of workers follow each other, whatever they have done between: each chunk is in one hand, what the kernel has comes back to who has the socket, and all have what is due to them.
    #[test]
    fn no_sequence_of_takeovers_loses_a_chunk_or_has_it_in_two_hands(
        queues in 1u16..6,
        // More than rings and all that is in hands take, or less.
        spare in 6usize..60,
        upgrades in prop::collection::vec((1usize..6, prop::collection::vec((0u8..8, 0usize..500, 0usize..6), 0..150)), 1..6),
    ) {
        let shape = Shape { singles: usize::from(queues) * RECEIVING + spare, long: Long { buffers: 7, chunks: 2 } };
        let all = shape.singles + shape.long.buffers * shape.long.chunks;
        let umem = Umem::new(shape.singles, 2048, shape.long).unwrap();
        let sockets = (0..queues).map(|socket| (socket, Vec::new(), Vec::new())).collect();
        let mut workers = vec![Worker { umem, sockets, held: Vec::new() }];
        for (count, events) in upgrades {
            for (event, n, worker) in events {
                let worker = worker % workers.len();
                workers[worker].step(event, n);
            }
            workers = succeed(workers, queues, count.min(queues.into()));
            let census: Vec<_> = workers.iter().map(|worker| worker.umem.census()).collect();
            prop_assert_eq!(census.iter().map(|census| census.chunks).sum::<usize>(), all);
            for (worker, census) in workers.iter().zip(&census) {
                prop_assert_eq!(census.chunks, census.free + census.receiving + census.held + census.sending);
                prop_assert_eq!(census.held, 0);
                prop_assert_eq!(census.receiving, worker.sockets.iter().map(|(_, receiving, _)| receiving.len()).sum::<usize>());
            }
            for index in 0..all {
                let hands = workers.iter().filter(|worker| worker.umem.places[index].get() != Place::ELSEWHERE).count();
                prop_assert_eq!(hands, 1, "chunk {}", index);
            }
            // Frames for one chunk each: nobody has less than is due to him, but for what another's socket still sends.
            let sending = |worker: &Worker| worker.sockets.iter().map(|(.., sending)| sending.len()).sum::<usize>();
            let others: usize = workers.iter().map(sending).sum();
            for worker in &workers {
                let mine = worker.umem.places[..shape.singles].iter().filter(|place| place.get() != Place::ELSEWHERE).count();
                let due = worker.sockets.len() * RECEIVING + spare / workers.len();
                prop_assert!(mine + others >= due, "{} of {}", mine, due);
            }
        }
        // All that the kernel has comes back, and nothing else is missing.
        for worker in &mut workers {
            for (socket, receiving, sending) in core::mem::take(&mut worker.sockets) {
                for address in receiving {
                    let slot = worker.umem.received(socket, address, 60).unwrap();
                    worker.umem.release(slot);
                }
                sending.into_iter().for_each(|address| assert!(worker.umem.sent(socket, address)));
            }
            let census = worker.umem.census();
            prop_assert_eq!(census.free, census.chunks);
        }
    }
}

#[test]
fn accounts_that_do_not_agree_are_refused() {
    let of_two = |places: [u16; 2]| places.map(u16::to_le_bytes).concat();
    let together = |accounts: &[[u16; 2]]| {
        let accounts: Vec<_> = accounts.iter().map(|places| of_two(*places)).collect();
        let accounts: Vec<&[u8]> = accounts.iter().map(|account| &account[..]).collect();
        division::together(&accounts, 2).map(|places| places.len())
    };
    const ELSEWHERE: u16 = 8;
    assert_eq!(together(&[[0, ELSEWHERE], [ELSEWHERE, 7]]), Ok(2));
    assert_eq!(together(&[[0, 0], [ELSEWHERE, 7]]), Err(Unreadable::Impossible("a chunk of two workers")));
    assert_eq!(together(&[[0, ELSEWHERE]]), Err(Unreadable::Impossible("a chunk of nobody")));
    assert_eq!(together(&[[0, 12]]), Err(Unreadable::Impossible("the place of a chunk")));
    assert_eq!(division::together(&[&[0; 6]], 2), Err(Unreadable::Impossible("chunks of another memory")));
    // The kernel has something by a socket that is nobody's; and fewer chunks than rings take.
    let mut holders = Holders::default();
    holders.add(0, 0, 2);
    let shape = Shape { singles: 2, long: Long::NONE };
    assert!(division::divide(&[Place::FREE, Place::sending(1)], shape, &holders).is_err());
    holders.add(1, 1, 1);
    assert!(division::divide(&[Place::FREE, Place::sending(1)], shape, &holders).is_err());
}
