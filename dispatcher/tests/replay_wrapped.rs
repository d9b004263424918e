//! Captures from where operators can take them: access lines, provider networks, mirrors. What lies around IP hides no connection.

use dispatcher::capture::{Capture, RecordedFrame};
use dispatcher::replay::decode::decode;
use dispatcher::replay::inspect::inspect;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

fn wrapped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/wrapped")
}

/// Lines of tshark.tsv, as fields.
fn oracle() -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(wrapped().join("tshark.tsv")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

#[test]
fn connections_in_wrappings_are_read_as_tshark_reads_them() {
    let mut files: Vec<String> = std::fs::read_dir(wrapped())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".pcap"))
        .collect();
    for fields in oracle() {
        let [file, first, client, server, hello, sni, session_id] = &fields[..] else { panic!("{fields:?}") };
        files.retain(|name| name != file);
        let found = inspect(&Capture::open(&wrapped().join(file)).unwrap());
        assert!(found.error.is_none() && found.unread.complaint().is_none(), "{file}: {:?}", found.unread.counts());
        let [stream] = &found.streams[..] else { panic!("{file}: {:#?}", found.streams) };
        let read = serde_json::to_value(stream).unwrap();
        let endpoint = |end: &Value| format!("{}:{}", end["ip"].as_str().unwrap(), end["port"]);
        let told = [endpoint(&read["client"]), endpoint(&read["server"])];
        assert_eq!(
            (told, read["first_frame"].to_string()),
            ([client.clone(), server.clone()], first.clone()),
            "{file}"
        );
        let of_hello = &read["client_hellos"][0];
        let expected = (json!(hello.parse::<u64>().unwrap()), json!(sni), json!(session_id));
        assert_eq!(
            (&of_hello["frame"], &of_hello["sni"], &of_hello["session_id"]),
            (&expected.0, &expected.1, &expected.2),
            "{file}"
        );
    }
    assert!(files.is_empty(), "not in the list: {files:?}");
}

#[test]
fn wrapped_connections_are_replayed_and_reenacted_like_any_others() {
    for fields in oracle() {
        let path = wrapped().join(&fields[0]);
        // Re-enactment reads captures where they lie, and leaves packets in pieces out, as it says.
        let in_pieces = fields[0].contains("fragmented");
        for more in [&[][..], &["--backend", "a=10.9.0.1:443"]].into_iter().take(if in_pieces { 1 } else { 2 }) {
            let mut replay = Command::new(env!("CARGO_BIN_EXE_dispatcher"));
            let output = replay.arg("replay").arg(&path).arg("--json").args(more).output().unwrap();
            assert!(output.status.success() && output.stderr.is_empty(), "{path:?}: {output:?}");
            let lines: Vec<Value> = output
                .stdout
                .split(|b| *b == b'\n')
                .filter(|l| !l.is_empty())
                .map(|l| serde_json::from_slice(l).unwrap())
                .collect();
            let [connection, summary] = &lines[..] else { panic!("{path:?}: {lines:?}") };
            assert_eq!(
                (&connection["class"], &connection["intact"]),
                (&json!("secure"), &json!(true)),
                "{path:?} {more:?}"
            );
            // Pieces of packets count as what they are, though what they make is read.
            let drops = summary["summary"]["drops"].as_object().unwrap();
            assert!(drops.keys().all(|why| why == "ip-fragment"), "{path:?} {more:?}: {drops:?}");
            assert_eq!(connection["end"], "fin", "{path:?} {more:?}");
        }
    }
}

#[test]
fn no_cut_and_no_changed_byte_of_a_wrapped_frame_makes_it_panic() {
    for fields in oracle() {
        let capture = Capture::open(&wrapped().join(&fields[0])).unwrap();
        let frames: Vec<_> = capture.frames().unwrap().map(Result::unwrap).collect();
        let frame = &frames[3];
        for cut in 0..frame.bytes.len() {
            let _ = decode(&RecordedFrame { bytes: &frame.bytes[..cut], ..*frame });
            let _ = decode(&RecordedFrame { bytes: &frame.bytes[..cut], original_len: cut, ..*frame });
        }
        let mut bytes = frame.bytes.to_vec();
        for at in 0..bytes.len().min(160) {
            for value in [0, 1, 0x0f, 0x11, 0x2f, 0x40, 0x45, 0x7f, 0x80, 0xff] {
                let was = std::mem::replace(&mut bytes[at], value);
                let _ = decode(&RecordedFrame { bytes: &bytes, ..*frame });
                bytes[at] = was;
            }
        }
    }
}
