//! Requests that are none.

use super::description::METHODS;
use super::scene::Scene;
use dispatcher::control::socket::router::paths;
use dispatcher::control::socket::serve::Times;

/// xorshift: the same nonsense in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % n.max(1)
    }
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

#[test]
fn ten_thousand_nonsense_requests_cost_nothing_and_it_still_answers() {
    let scene = Scene::new("nonsense", true, Times::default());
    let mut dice = Dice(0x1234_5678_9abc_def1);
    let whole: Vec<Vec<u8>> = paths()
        .iter()
        .map(|path| path.replace("{backend}", "web1").replace("{pool}", "shop"))
        .flat_map(|path| METHODS.map(|m| format!("{m} {path} HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\n\r\n{{}}")))
        .map(String::into_bytes)
        .collect();
    let before = resident();
    for n in 0..10_000 {
        let mut bytes = whole[dice.below(whole.len())].clone();
        match n % 5 {
            // Cut anywhere.
            0 => bytes.truncate(dice.below(bytes.len())),
            // Some bytes are others.
            1 => (0..1 + dice.below(4)).for_each(|_| {
                let at = dice.below(bytes.len());
                bytes[at] = dice.below(256) as u8;
            }),
            // Nothing but noise.
            2 => bytes = (0..dice.below(400)).map(|_| dice.below(256) as u8).collect(),
            // A path, a header or a number of headers that is too long; a body that was not announced so.
            3 => {
                let much = dice.below(if n % 100 == 3 { 1 << 20 } else { 4000 });
                bytes = match dice.below(4) {
                    0 => format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(much)).into_bytes(),
                    1 => format!("GET /v1 HTTP/1.1\r\nX: {}\r\n\r\n", "b".repeat(much)).into_bytes(),
                    2 => format!("GET /v1 HTTP/1.1\r\n{}\r\n", "c: d\r\n".repeat(much / 6)).into_bytes(),
                    _ => {
                        [&b"POST /v1/log/reopen HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"[..], &vec![b'f'; much]]
                            .concat()
                    }
                };
            }
            // Another length than is announced, and one request behind the other.
            _ => {
                let length = [0, 1, 3, 1 << 20, usize::MAX][dice.below(5)];
                let text = format!("POST /v1/log/reopen HTTP/1.1\r\nHost: d\r\nContent-Length: {length}\r\n\r\n{{}}");
                bytes = text.repeat(1 + dice.below(3)).into_bytes();
            }
        }
        scene.raw(&bytes);
        if n % 1000 == 999 {
            scene.is_well();
        }
    }
    let after = resident();
    assert!(after < before + (32 << 20), "{before} bytes resident before, {after} after");
}
