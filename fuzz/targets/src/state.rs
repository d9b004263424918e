//! State files.

use dispatcher::engine::{Config, Limits, Share};
use dispatcher::state::header::{Beat, Header, PAGE};
use dispatcher::state::rows::take_all;
use dispatcher::time::Time;
use lb::affinity::{About, Saved, called};
use lb::{Key, MemberSpec, PoolSpec, Wanted};
use sim::config::{server_ip, two_armed, vip};
use std::net::SocketAddr;

const MACHINE: [u64; 2] = [1, 2];
const WALL: u64 = 1_795_000_000_000;
const SERVERS: [&str; 3] = ["web1", "web2", "gone"];

fn shares() -> Vec<Share> {
    let member = |(i, name): (usize, &&str)| MemberSpec::new(*name, SocketAddr::new(server_ip(i, false), 8443));
    let backends = SERVERS[..2].iter().enumerate().map(member).collect();
    let pool = PoolSpec { backends, ..PoolSpec::default() };
    let wanted = Wanted::single(vec![vip(false)], Default::default(), pool);
    let limits = Limits { sessions: 16, flows: 16, backends: 2, ..Limits::default() };
    Share::divide(&Config { wanted, limits, ..two_armed(1, false) }, &[7; 32], 2).unwrap()
}

/// Any row at all: 40 bytes say which.
fn row(bytes: &[u8; 40]) -> Option<Saved> {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let key = &bytes[8..40];
    let name = key[..16].try_into().unwrap();
    let about = match bytes[0] % 5 {
        0 => About::Exact { key: Key::session_id(&key[..usize::from(bytes[1]) % 33])?, refused: bytes[2] & 1 != 0 },
        1 => About::Exact { key: Key::ticket(key), refused: bytes[2] & 1 != 0 },
        4 => About::Cookie {
            key: Key::cookie(&[key]),
            end: if bytes[2] & 2 == 0 { 0 } else { word(24) },
            refused: bytes[2] & 1 != 0,
        },
        2 => About::Name { name, since: word(24), doubted: bytes[2] & 1 != 0 },
        _ => About::Candidate { name, identity: word(24) },
    };
    let used = if bytes[3] & 1 == 0 { WALL - word(32) % 4_000_000 } else { word(32) };
    Some(Saved { about, backend: called(SERVERS[usize::from(bytes[4]) % 3]), maker: u16::from(bytes[5]), used })
}

/// A state file; and rows that a process may have kept, in any order and of any time.
pub fn state(bytes: &[u8]) {
    if let Some(taken) = take_all(bytes, MACHINE, &mut shares(), Time::from_millis(5), WALL) {
        let rows = (bytes.len() / 8 - PAGE) / 8;
        assert!(taken.known + taken.expired + taken.gone + taken.refused + taken.damaged <= rows as u64);
    }
    let rows: Vec<Saved> = bytes.chunks_exact(40).filter_map(|chunk| row(chunk.try_into().unwrap())).collect();
    let mut page = [0; PAGE];
    page[..7].copy_from_slice(&Header { machine: MACHINE, rows: rows.len() as u64 }.to_words());
    let beat = Beat { number: 1, clock: WALL, wall: WALL };
    page[beat.place()..beat.place() + 4].copy_from_slice(&beat.to_words());
    let mut words = page.to_vec();
    for row in &rows {
        assert_eq!(Saved::from_words(&row.to_words()), Ok(Some(*row)));
        words.extend(row.to_words());
    }
    let file: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let mut all = shares();
    let taken = take_all(&file, MACHINE, &mut all, Time::from_millis(5), WALL).expect("a whole file");
    assert_eq!(taken.damaged, 0);
    assert_eq!(taken.known + taken.expired + taken.gone + taken.refused, rows.len() as u64);
    let census = all[0].rows().census(dispatcher::engine::session_time(Time::from_millis(5)));
    assert!(census.rows() as u64 <= taken.known);
    let gone = rows.iter().filter(|row| row.backend == called("gone")).count();
    assert_eq!(taken.gone, gone as u64);
}
