//! The file that keeps the affinity tables: what is whole is known again, and what is not is said, set aside and never believed.

use dispatcher::engine::{Config, Limits, Share};
use dispatcher::state::header::{Beat, Header, PAGE, machine};
use dispatcher::state::rows::take_all;
use dispatcher::state::{Note, State, open};
use dispatcher::time::Time;
use lb::affinity::{About, RowClass, Saved, called};
use lb::{Key, MemberSpec, PoolSpec, Wanted};
use proptest::prelude::*;
use sim::config::{server_ip, two_armed, vip};
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// A day in 2026 by the wall clock, milliseconds.
const WALL: u64 = 1_795_000_000_000;
const NOW: Time = Time::from_millis(5);

fn shares(workers: usize, sessions: usize, servers: &[&str]) -> Vec<Share> {
    let member = |(i, name): (usize, &&str)| MemberSpec::new(*name, SocketAddr::new(server_ip(i, false), 8443));
    let backends = servers.iter().enumerate().map(member).collect();
    let pool = PoolSpec { backends, ..PoolSpec::default() };
    let wanted = Wanted::single(vec![vip(false)], Default::default(), pool);
    let limits = Limits { sessions, flows: 64, backends: 4, ..Limits::default() };
    Share::divide(&Config { wanted, limits, ..two_armed(1, false) }, &[7; 32], workers).unwrap()
}

/// What the tables say of sessions: by ID, the server's name.
fn known(shares: &[Share]) -> BTreeMap<Vec<u8>, String> {
    let mut all = BTreeMap::new();
    shares[0].rows().for_each_row(dispatcher::engine::session_time(NOW), |row| {
        if row.class == RowClass::Exact {
            let backend = row.backends.single().unwrap();
            all.insert(row.key.as_bytes().to_vec(), shares[0].directory().backend(backend).unwrap().name.clone());
        }
    });
    all
}

fn id(n: u8) -> Vec<u8> {
    vec![n; 32]
}

fn row(n: u8, server: &str, age: u64) -> Saved {
    let about = About::Exact { key: Key::session_id(&id(n)).unwrap(), refused: false };
    Saved { about, backend: called(server), maker: 3, used: WALL - age }
}

/// A file as a process left it that ran until `WALL`.
fn file_of(rows: &[Saved], machine: [u64; 2]) -> Vec<u8> {
    let mut page = [0; PAGE];
    page[..7].copy_from_slice(&Header { machine, rows: rows.len() as u64 }.to_words());
    let beat = Beat { number: 5, clock: WALL, wall: WALL };
    page[beat.place()..beat.place() + 4].copy_from_slice(&beat.to_words());
    page.iter().copied().chain(rows.iter().flat_map(Saved::to_words)).flat_map(u64::to_ne_bytes).collect()
}

fn here() -> [u64; 2] {
    machine(&fs::read_to_string("/etc/machine-id").unwrap_or_default())
}

/// A directory of the test's own, gone with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let dir = std::env::temp_dir().join(format!("dispatcher-state-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        Scratch(dir)
    }

    fn file(&self) -> PathBuf {
        self.0.join("state")
    }

    /// Names of what is there.
    fn all(&self) -> Vec<String> {
        let name = |e: fs::DirEntry| e.file_name().into_string().unwrap();
        let mut all: Vec<_> = fs::read_dir(&self.0).unwrap().map(|e| name(e.unwrap())).collect();
        all.sort();
        all
    }

    fn open(&self, shares: &mut [Share]) -> (Option<State>, String, bool) {
        let (state, notes) = open(&self.file(), shares, NOW, WALL);
        let trouble = notes.iter().any(|note| matches!(note, Note::Trouble(_)));
        (state, notes.iter().map(Note::text).collect::<Vec<_>>().join("\n"), trouble)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Everything about real files in one test: one process keeps one.
#[test]
fn a_file_outlives_processes_and_what_is_wrong_with_one_is_said() {
    let scratch = Scratch::new("files");
    let servers = ["web1", "web2", "web3"];

    // The first start.
    let mut first = shares(1, 64, &servers);
    let (state, said, trouble) = scratch.open(&mut first);
    assert!(state.is_some() && !trouble && said.contains("it begins"), "{said}");
    assert_eq!(scratch.all(), ["state"]);
    assert_eq!(fs::metadata(scratch.file()).unwrap().permissions().mode() & 0o777, 0o600);

    // A second dispatcher beside it.
    let (second, said, trouble) = scratch.open(&mut shares(1, 64, &servers));
    assert!(second.is_none() && trouble && said.contains("in use by another dispatcher"), "{said}");
    assert_eq!(scratch.all(), ["state"]);
    // Locked as long as anybody could write.
    drop((state, first));

    // Three rows, of which one is of a server that is gone and one too old; then other tables, twice: what is known is written again.
    let rows = [row(1, "web1", 1000), row(2, "old", 1000), row(3, "web3", 3_700_000), row(4, "web3", 0)];
    fs::write(scratch.file(), file_of(&rows, here())).unwrap();
    let want: BTreeMap<_, _> = [(id(1), "web1".to_string()), (id(4), "web3".to_string())].into();
    for (workers, sessions, servers) in [(2, 100, ["web3", "web1", "web2"]), (1, 20, ["web2", "web3", "web1"])] {
        let mut next = shares(workers, sessions, &servers);
        let (state, said, trouble) = scratch.open(&mut next);
        assert!(state.is_some() && !trouble && said.contains("2 rows are known again"), "{said}");
        assert_eq!(known(&next), want);
        assert_eq!(scratch.all(), ["state"]);
    }

    // Cut off, foreign, of another machine, no file of ours at all.
    let whole = file_of(&rows, here());
    let other = file_of(&rows, [1, 2]);
    let cases: [(&[u8], &str); 6] = [
        (&whole[..whole.len() - 1], "bytes, and should have"),
        (&whole[..PAGE * 8], "bytes, and should have"),
        (&whole[..100], "it has 100 bytes only"),
        (b"", "it has 0 bytes only"),
        (&other, "written on another machine"),
        (&[b'x'; 9000], "no state of a dispatcher"),
    ];
    for (bytes, why) in cases {
        fs::write(scratch.file(), bytes).unwrap();
        let mut next = shares(1, 64, &servers);
        let (state, said, trouble) = scratch.open(&mut next);
        assert!(state.is_some() && trouble && said.contains(why) && said.contains("set aside"), "{said}");
        assert!(known(&next).is_empty());
        assert_eq!(scratch.all(), ["state", "state.damaged"]);
        assert_eq!(fs::read(scratch.0.join("state.damaged")).unwrap(), bytes);
        fs::remove_file(scratch.0.join("state.damaged")).unwrap();
    }

    // What a start left that was killed.
    fs::write(scratch.0.join("state.new"), b"half a file").unwrap();
    fs::write(scratch.file(), &whole).unwrap();
    let mut next = shares(1, 64, &servers);
    let (state, said, trouble) = scratch.open(&mut next);
    assert!(state.is_some() && !trouble && known(&next) == want, "{said}");
    assert_eq!(scratch.all(), ["state"]);
    drop(state);

    // A directory; and a directory that is not there.
    fs::remove_file(scratch.file()).unwrap();
    fs::create_dir(scratch.file()).unwrap();
    let (state, said, trouble) = scratch.open(&mut next);
    assert!(state.is_none() && trouble && said.contains("not a file"), "{said}");
    assert_eq!(scratch.all(), ["state"]);
    let (state, notes) = open(&scratch.0.join("none/state"), &mut next, NOW, WALL);
    assert!(state.is_none() && matches!(&notes[..], [Note::Trouble(_)]), "{notes:?}");
}

fn rows() -> impl Strategy<Value = Vec<Saved>> {
    let row = (0u8..60, 0u64..4_000_000);
    let named = |(n, age)| row_of(n, age);
    proptest::collection::vec(row.prop_map(named), 0..40)
}

fn row_of(n: u8, age: u64) -> Saved {
    // One server a session, whatever its row's number.
    row(n, ["web1", "web2", "web3", "gone"][usize::from(n) % 4], age)
}

fn truth() -> BTreeMap<Vec<u8>, String> {
    (0..60).map(|n| (id(n), ["web1", "web2", "web3", "gone"][usize::from(n) % 4].to_string())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Bytes flipped, cut off, put in or filled with noise anywhere: no panic, and each row that is believed is one that was written.
    #[test]
    fn no_damage_makes_a_wrong_row(
        rows in rows(), flips in proptest::collection::vec((any::<prop::sample::Index>(), 1u8..), 0..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        noise in proptest::option::of((any::<prop::sample::Index>(), proptest::collection::vec(any::<u8>(), 0..200))),
    ) {
        let mut bytes = file_of(&rows, [3, 4]);
        for (at, with) in &flips {
            let at = at.index(bytes.len());
            bytes[at] ^= with;
        }
        if let Some((at, noise)) = &noise {
            let at = at.index(bytes.len());
            bytes.iter_mut().skip(at).zip(noise).for_each(|(to, byte)| *to = *byte);
        }
        if let Some(cut) = &cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let mut shares = shares(2, 64, &["web1", "web2", "web3"]);
        let taken = take_all(&bytes, [3, 4], &mut shares, NOW, WALL);
        let known = known(&shares);
        let truth = truth();
        prop_assert!(known.iter().all(|(id, server)| truth.get(id) == Some(server)));
        prop_assert!(cut.is_none() || taken.is_none());
        if flips.is_empty() && noise.is_none() && cut.is_none() {
            let taken = taken.unwrap();
            prop_assert_eq!(taken.damaged, 0);
            prop_assert_eq!((taken.known + taken.expired + taken.gone) as usize, rows.len());
        }
    }
}
