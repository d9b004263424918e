//! What `dispatcher ctl` makes of the answers.

use super::scene::{Scene, ctl};
use dispatcher::control::events::{Kind, News};
use dispatcher::control::socket::client;
use dispatcher::control::socket::client::Question;
use dispatcher::control::socket::serve::{CONNECTIONS, Times};
use hyper::Method;
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

#[test]
fn events_are_told_from_a_number_on_and_who_waits_hears_of_the_next_one_and_keeps_nobody_out() {
    let scene = Scene::new("events", false, Times::default());
    assert_eq!(ctl(&scene, &["events"]), "    1 2017-07-14T02:40:00.000Z ! backend       backend a is down\n");
    let line: Value = serde_json::from_str(&ctl(&scene, &["events", "--since", "0", "--json"])).unwrap();
    assert_eq!((&line["fields"]["backend"], &line["fields"]["by"]), (&"a".into(), &"check".into()));
    assert_eq!(ctl(&scene, &["events", "--since", "1"]), "");
    // More than may wait at once, and as many as there are connections.
    let waiting: Vec<_> = (0..CONNECTIONS - 4)
        .map(|_| {
            let socket = scene.socket.clone();
            let question = Question::new(Method::GET, "/v1/events?after=1&wait=20");
            std::thread::spawn(move || client::request(&socket, question).unwrap())
        })
        .collect();
    // All but those who may wait are answered at once; and the others keep nobody from asking.
    while waiting.iter().filter(|w| w.is_finished()).count() < CONNECTIONS - 4 - CONNECTIONS / 4 {
        std::thread::sleep(Duration::from_millis(5));
    }
    scene.is_well();
    scene.events.tell(News::new(Kind::Link, true, "port wan: its link is down"), 1.5e9);
    let told: Vec<Value> =
        waiting.into_iter().map(|w| serde_json::from_slice(&w.join().unwrap().body).unwrap()).collect();
    let heard = told.iter().filter(|t| t["events"][0]["kind"] == "link").count();
    assert_eq!(heard, CONNECTIONS / 4);
    // A dispatcher that was started anew counts from the beginning: nothing of it is missed.
    assert_eq!(scene.ask(Method::GET, "/v1/events?after=99").1["events"].as_array().unwrap().len(), 2);
    for wrong in ["after=x", "after=-1", "before=1"] {
        assert_eq!(scene.ask(Method::GET, &format!("/v1/events?{wrong}")).0, 400, "{wrong}");
    }
}

/// What a plain GET at the address of metrics answers: its head and its body.
#[test]
fn drops_that_grow_are_told_alone_and_keys_with_who_shares_them() {
    let scene = Scene::new("questions", false, Times::default());
    let grown = ctl(&scene, &["show", "drops", "--over", "10ms"]);
    // The machine may have been slower than that.
    assert!(grown.starts_with("drops: none has grown in "), "{grown}");
    let keys = ctl(&scene, &["show", "keys"]);
    assert!(keys.contains("KEY NAME") && keys.lines().count() > 1, "{keys}");
}

#[test]
fn a_connection_is_explained_in_words_step_by_step() {
    let scene = Scene::new("explain", false, Times::default());
    let words = ctl(&scene, &["explain", "10.0.0.7:41022"]);
    for said in [
        "connection 17 of worker 1: 10.0.0.7:41022 to 10.0.9.1:443, ended: fin",
        "0.000 ms  began 2017-07-14T02:40:00.000000Z",
        "0.500 ms  the client's hello, for a.example",
        "offers a ticket abababababababababababababababab…, key name cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
        "and 1 identities more",
        "the table knows ticket-key cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd: it names one backend",
        "no backend has room: it waits, in class resumes",
        "12.500 ms  there is room at web2, after 12 ms",
        "web2 is chosen, by the row of its ticket-key, and dialled from 10.2.0.1:20001",
        "13.000 ms  web2 answers",
        "its hello: TLS 1.3, the session was resumed, 0.750 ms after the client's",
        "3 steps more",
        "90.000 ms  it ends: fin; 2315 bytes to the server, 8120 to the client",
        "web3: down (check: connection refused), weight 2",
        "connection 18 of worker 0: 10.0.0.7:41022 to 10.0.9.1:443, lives: await-hello",
        "nothing is decided yet",
        "(there are more: --limit)",
        "worker 3 did not answer in time",
    ] {
        assert!(words.contains(said), "{said}\n{words}");
    }
    let json: Value = serde_json::from_str(&ctl(&scene, &["explain", "--conn", "17", "--json"])).unwrap();
    assert_eq!(json["explanations"][0]["row"]["reason"], "ticket-key");
    for (path, says) in [
        ("/v1/explain?client=web1", "\"web1\" is no ADDR or ADDR:PORT"),
        ("/v1/explain?conn=1&limit=101", "limit: 1 to 100"),
    ] {
        let (status, body) = scene.ask(Method::GET, path);
        assert!(status == 400 && body["error"].as_str().unwrap().contains(says), "{path}: {body}");
    }
}

#[test]
fn connections_are_shown_as_they_are_told_and_what_is_meant_must_be_there() {
    let scene = Scene::new("connections", false, Times::default());
    let shown =
        ctl(&scene, &["show", "connections", "--backend", "web1", "--service", "default", "--client", "10.0.0.0/8"]);
    let rows: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        rows[1],
        [
            "17",
            "[2001:db8::7]:41022",
            "[fd00::1]:443",
            "web2",
            "[fd00:1::200]:20001",
            "spliced",
            "secure",
            "session-id,ticket",
            "ticket-key",
            "yes",
            "61.5",
            "s",
            "1.2",
            "s",
            "2315",
            "8120"
        ]
    );
    assert_eq!(rows[2][3..10], ["-", "-", "await-hello", "-", "-", "-", "-"]);
    assert!(shown.contains("more than these 2: --limit") && shown.contains("worker 3 has not looked"), "{shown}");
    for (query, status, says) in [
        ("backend=web9", 404, "there is no backend \"web9\""),
        ("service=other", 404, "there is no service \"other\""),
        ("client=10.0.0.0%2F33", 400, "has not so many bits"),
        ("state=asleep", 400, "state: one of await-hello, queued, dialing, spliced"),
        ("limit=0", 400, "limit: 1 to 10000"),
        ("limit=10001", 400, "limit: 1 to 10000"),
        ("color=red", 400, "unknown field"),
        ("state=spliced&limit=10000&client=2001:db8::%2F32", 200, ""),
    ] {
        let (got, answer) = scene.ask(Method::GET, &format!("/v1/connections?{query}"));
        assert_eq!(got, status, "{query}: {answer}");
        assert!(answer["error"].as_str().unwrap_or_default().contains(says), "{query}: {answer}");
    }
    // Filters of connections say nothing of other things.
    let refused = Command::new(env!("CARGO_BIN_EXE_dispatcher"))
        .args(["ctl", "--socket"])
        .arg(&scene.socket)
        .args(["show", "drops", "--backend", "web1"])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("go with `show connections` only"));
}
