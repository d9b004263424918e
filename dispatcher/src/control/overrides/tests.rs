use super::lay::{lay, lay_fitting, put_over};
use super::saved::{Saved, from_json, to_json};
use super::*;
use lb::PoolSpec;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

const NOW: u64 = 1_800_000_000;

fn member(name: &str, last: u8) -> MemberSpec {
    MemberSpec::new(name, SocketAddr::from(([10, 0, 0, last], 443)))
}

/// `web1` and `web2` in `shop`, `web1` in `api` as well.
fn file() -> Wanted {
    let pool = |name: &str, backends| PoolSpec { name: name.into(), backends, ..PoolSpec::default() };
    let pools = vec![pool("shop", vec![member("web1", 1), member("web2", 2)]), pool("api", vec![member("web1", 1)])];
    Wanted { services: Vec::new(), pools }
}

fn order(what: What, time: Option<u64>) -> Order {
    let time = time.map(Duration::from_secs);
    Order { who: "uid 0".into(), what, time, why: Some("new disk".into()) }
}

fn state(backend: &str, state: State) -> What {
    What::State(backend.into(), state)
}

fn add(pool: &str, name: &str, last: u8) -> What {
    What::Add { pool: pool.into(), backend: member(name, last).into() }
}

fn remove(backend: &str) -> What {
    What::Remove { backend: backend.into(), now: false }
}

/// No backend has an agent.
fn alone(wanted: &Wanted, _: &Overrides) -> Wanted {
    wanted.clone()
}

fn ordered(all: &[What]) -> Overrides {
    all.iter().fold(Overrides::default(), |overrides, what| {
        overrides
            .order(&file(), &order(what.clone(), None), NOW, alone)
            .unwrap_or_else(|e| panic!("{what}: {e:?}"))
            .overrides
    })
}

/// As `POOL: NAME=LAST*WEIGHT STATE`.
fn shown(wanted: &Wanted) -> String {
    let one = |b: &MemberSpec| {
        let last = b.addr.ip().to_string().rsplit('.').next().unwrap().to_string();
        format!(" {}={last}*{} {}", b.name, b.weight, b.state)
    };
    let pools = wanted.pools.iter().map(|p| format!("{}:{}", p.name, p.backends.iter().map(one).collect::<String>()));
    pools.collect::<Vec<_>>().join("; ")
}

fn outcome(all: &[What]) -> String {
    shown(&lay(&file(), &ordered(all), NOW).wanted)
}

#[test]
fn an_override_is_laid_over_every_pool_that_the_backend_is_in() {
    for (orders, expected) in [
        (vec![], "shop: web1=1*1 up web2=2*1 up; api: web1=1*1 up"),
        (vec![state("web1", State::Draining)], "shop: web1=1*1 draining web2=2*1 up; api: web1=1*1 draining"),
        (vec![What::Weight("web1".into(), 5)], "shop: web1=1*5 up web2=2*1 up; api: web1=1*5 up"),
        (vec![remove("web1"), add("api", "web3", 3)], "shop: web2=2*1 up; api: web3=3*1 up"),
        // One that joins a second pool has its state there, too.
        (
            vec![state("web2", State::Down), add("api", "web2", 2)],
            "shop: web1=1*1 up web2=2*1 down; api: web1=1*1 up web2=2*1 down",
        ),
        // Another machine under the same name.
        (vec![remove("web2"), add("shop", "web2", 9)], "shop: web1=1*1 up web2=9*1 up; api: web1=1*1 up"),
        // The second word about the same thing counts.
        (
            vec![state("web2", State::Draining), state("web2", State::Down)],
            "shop: web1=1*1 up web2=2*1 down; api: web1=1*1 up",
        ),
    ] {
        assert_eq!(outcome(&orders), expected, "{orders:?}");
    }
}

#[test]
fn what_is_taken_back_leaves_no_override() {
    for orders in [
        vec![state("web1", State::Draining), state("web1", State::Up)],
        vec![What::Weight("web1".into(), 5), What::Weight("web1".into(), 1)],
        vec![add("shop", "web3", 3), state("web3", State::Draining), remove("web3")],
        vec![remove("web2"), state("web2", State::Up)],
        vec![state("web2", State::Up)],
    ] {
        assert_eq!(ordered(&orders), Overrides::default(), "{orders:?}");
    }
    // What replaced a removed one goes; the removal stays.
    let left = ordered(&[remove("web2"), add("shop", "web2", 9), remove("web2")]);
    assert_eq!(left.iter().map(|o| o.what.to_string()).collect::<Vec<_>>(), ["remove web2"]);
}

#[test]
fn an_order_about_what_is_not_there_is_told_from_one_that_does_not_fit() {
    for (before, what, there) in [
        (vec![], state("web9", State::Up), false),
        (vec![], What::Weight("web9".into(), 1), false),
        (vec![], remove("web9"), false),
        (vec![], add("nopool", "web9", 9), false),
        (vec![remove("web1")], remove("web1"), false),
        (vec![remove("web1")], state("web1", State::Draining), false),
        (vec![], add("shop", "web1", 1), true),
        (vec![], add("shop", "web1", 9), true),
    ] {
        let wrong = ordered(&before).order(&file(), &order(what.clone(), None), NOW, alone).unwrap_err();
        assert_eq!(matches!(wrong, Wrong::Conflict(_)), there, "{what}: {wrong:?}");
    }
}

#[test]
fn when_its_time_is_over_it_is_over_and_not_before() {
    let drain = order(state("web1", State::Draining), Some(600));
    let all = ordered(&[What::Weight("web2".into(), 7)]).order(&file(), &drain, NOW, alone).unwrap().overrides;
    assert_eq!(all.next_expiry(), Some(NOW + 600));
    assert!(lay(&file(), &all, NOW + 599).over.is_empty());
    let over = lay(&file(), &all, NOW + 600);
    assert_eq!(shown(&over.wanted), "shop: web1=1*1 up web2=2*7 up; api: web1=1*1 up");
    assert_eq!((over.over.len(), over.kept.next_expiry()), (1, None));
    assert_eq!(over.over[0].1, "its time is over");
    // A clock that was set back ends nothing too early.
    assert!(lay(&file(), &all, NOW - 1_000_000).over.is_empty());
}

#[test]
fn a_changed_line_of_the_file_wins_and_any_other_change_does_not() {
    let all = ordered(&[
        state("web1", State::Draining),
        What::Weight("web2".into(), 7),
        add("shop", "web3", 3),
        state("web3", State::Down),
    ]);
    let mut other = file();
    other.pools[0].balance = lb::Algorithm::RoundRobin;
    other.pools[0].backends[0].weight = 4;
    other.pools[0].backends[1].state = State::Draining;
    let laid = lay(&other, &all, NOW);
    assert!(laid.over.is_empty(), "{:?}", laid.over);
    assert_eq!(shown(&laid.wanted), "shop: web1=1*4 draining web2=2*7 draining web3=3*1 down; api: web1=1*1 draining");
    for (change, whose, why) in [
        (
            (|f| f.pools.iter_mut().for_each(|p| p.backends[0].state = State::Down)) as fn(&mut Wanted),
            "drain web1",
            "down now, not up",
        ),
        (|f| f.pools[0].backends[1].weight = 2, "weight web2 7", "2 in shop now, not 1 in shop"),
        (|f| f.pools[0].backends.push(member("web3", 8)), "add shop web3=10.0.0.3:443,weight=1", "itself now"),
        (|f| drop(f.pools[0].backends.pop()), "weight web2 7", "no more"),
    ] {
        let mut changed = file();
        change(&mut changed);
        let laid = lay(&changed, &all, NOW);
        // Whose state the file had never said follows the file's own backend, too.
        let (one, told) = &laid.over[0];
        assert_eq!(one.what.to_string(), whose, "{:?}", laid.over);
        assert!(told.contains(why), "{whose}: {told}");
    }
    // With the pool goes what was added to it, and with this what was said of it.
    let mut less = file();
    less.pools.remove(0);
    let laid = lay(&less, &all, NOW);
    let over: Vec<_> = laid.over.iter().map(|(o, _)| o.what.to_string()).collect();
    assert_eq!(over, ["weight web2 7", "add shop web3=10.0.0.3:443,weight=1", "disable web3"]);
}

#[test]
fn of_overrides_that_do_not_fit_a_file_only_those_are_over() {
    let all = ordered(&[state("web1", State::Draining), add("shop", "web3", 3), What::Weight("web2".into(), 3)]);
    let taken =
        |w: &Wanted| w.pools[0].backends.iter().any(|b| b.name == "web3").then(|| "the address is taken".into());
    let laid = lay_fitting(&file(), &all, NOW, taken);
    assert_eq!(shown(&laid.wanted), "shop: web1=1*1 draining web2=2*3 up; api: web1=1*1 draining");
    let over: Vec<_> = laid.over.iter().map(|(o, why)| format!("{}: {why}", o.what)).collect();
    assert_eq!(over, ["add shop web3=10.0.0.3:443,weight=1: the address is taken"]);
    assert_eq!(lay_fitting(&file(), &all, NOW, |_| None), lay(&file(), &all, NOW));
}

#[test]
fn their_number_has_a_bound_and_what_is_over_makes_room() {
    let mut all = Overrides::default();
    for n in 0..MAX_OVERRIDES {
        let name = format!("new{n}");
        let what = Setting::Added { pool: "shop".into(), backend: member(&name, 7).into() };
        let until = (n == 0).then_some(NOW + 1);
        all.0.push(Override { what, who: "uid 0".into(), since: NOW, until, why: None, file: String::new() });
    }
    let drain = order(state("web1", State::Draining), None);
    let full = all.order(&file(), &drain, NOW, alone).unwrap_err();
    assert!(matches!(&full, Wrong::Conflict(why) if why.contains("1024 overrides")), "{full:?}");
    // What takes another one's place is taken.
    assert!(all.order(&file(), &order(add("shop", "new7", 9), None), NOW, alone).is_ok());
    assert_eq!(all.order(&file(), &drain, NOW + 1, alone).unwrap().overrides.iter().len(), MAX_OVERRIDES);
}

#[test]
fn laid_twice_they_are_as_laid_once_where_a_name_was_given_to_another_machine_too() {
    let all = ordered(&[
        remove("web2"),
        add("shop", "web2", 9),
        add("shop", "web3", 3),
        remove("web1"),
        add("api", "web1", 1),
    ]);
    let mut once = file();
    put_over(&mut once, &all);
    let mut twice = once.clone();
    put_over(&mut twice, &all);
    assert_eq!(shown(&once), shown(&twice));
    assert_eq!(shown(&once), shown(&lay(&file(), &all, NOW).wanted));
}

fn every_kind() -> Overrides {
    let first = order(state("web1", State::Draining), Some(600));
    let mut all = Overrides::default().order(&file(), &first, NOW, alone).unwrap().overrides;
    for what in [
        What::Weight("web1".into(), 0),
        add("api", "web3", 3),
        state("web3", State::Down),
        remove("web2"),
        add("shop", "web4", 4),
    ] {
        all = all.order(&file(), &Order { why: None, ..order(what, None) }, NOW, alone).unwrap().overrides;
    }
    all
}

#[test]
fn what_is_written_down_is_read_again_and_what_is_not_so_written_is_refused() {
    let all = every_kind();
    let text = to_json(&all);
    assert_eq!(from_json(&text), Ok(all));
    let text = String::from_utf8(text).unwrap();
    for (from, to, why) in [
        ("\"version\": 1", "\"version\": 2", "version 2"),
        ("\"drain\"", "\"rest\"", "unknown variant"),
        ("\"backend\": \"web2\"", "\"backend\": \"web 2\"", "cannot stand in a name"),
        ("\"pool\": \"shop\",", "", "no 'pool'"),
        ("\"who\"", "\"whom\"", "unknown field"),
        ("\"weight\": 0", "\"weight\": 1001", "weight 1001"),
        ("new disk", "new\\ndisk", "'why' is none"),
        (
            "\"backend\": \"web3\",\n      \"who\"",
            "\"backend\": \"web1\",\n      \"who\"",
            "sets what another one sets",
        ),
    ] {
        assert!(text.contains(from), "{from}: {text}");
        let wrong = from_json(text.replacen(from, to, 1).as_bytes()).unwrap_err();
        assert!(wrong.contains(why), "{from}: {wrong}");
    }
    // Cut anywhere, it is no more.
    for end in 0..text.trim_end().len() {
        assert!(from_json(&text.as_bytes()[..end]).is_err(), "{end}");
    }
}

#[test]
fn the_file_is_replaced_as_a_whole_for_its_owner_only_and_a_damaged_one_is_set_aside() {
    let folder = std::env::temp_dir().join(format!("dispatcher-overrides-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let saved = Saved::beside(&folder.join("control.sock"));
    assert_eq!(saved.path(), folder.join("control.sock.overrides"));
    assert_eq!(saved.load(), (Overrides::default(), None), "there is none");
    let all = every_kind();
    saved.keep(&all).unwrap();
    assert_eq!(saved.path().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(saved.load(), (all.clone(), None));
    // Left behind by one that was killed, and readable by all.
    let new = folder.join("control.sock.overrides.new");
    std::fs::write(&new, "half").unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o644)).unwrap();
    saved.keep(&all).unwrap();
    assert_eq!(saved.path().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!new.exists());
    std::fs::write(saved.path(), "nonsense").unwrap();
    let (none, note) = saved.load();
    let note = note.unwrap();
    assert!(none == Overrides::default() && note.contains("damaged") && !note.contains('\n'), "{note}");
    assert_eq!(std::fs::read_to_string(folder.join("control.sock.overrides.damaged")).unwrap(), "nonsense");
    assert!(!saved.path().exists());
    // Where it cannot be written, that is said.
    assert!(Saved::at(&folder.join("none/x")).keep(&all).is_err());
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn an_order_that_says_what_the_file_does_is_kept_where_an_agent_says_otherwise_and_only_there() {
    let agents = |wanted: &Wanted, overrides: &Overrides| {
        let mut says = crate::checks::Says::default();
        assert!(says.hear("maint 300%"));
        crate::control::agents::lay(wanted, &[("web1".to_string(), says)].into(), overrides)
    };
    let mut all = Overrides::default();
    for what in [state("web1", State::Up), state("web2", State::Up), What::Weight("web1".into(), 1)] {
        all = all.order(&file(), &order(what, None), NOW, agents).unwrap().overrides;
    }
    assert_eq!(all.iter().map(|o| o.what.to_string()).collect::<Vec<_>>(), ["ready web1", "weight web1 1"]);
    let laid = agents(&lay(&file(), &all, NOW).wanted, &all);
    assert_eq!(shown(&laid), "shop: web1=1*1 up web2=2*1 up; api: web1=1*1 up");
    // The same once more, when the agent has come round: it is not needed any more.
    let again = all.order(&file(), &order(state("web1", State::Up), None), NOW, alone).unwrap();
    assert_eq!(again.overrides.iter().map(|o| o.what.to_string()).collect::<Vec<_>>(), ["weight web1 1"]);
}

#[test]
fn an_added_backend_has_its_limits_and_checks_also_after_a_restart_and_in_a_second_pool_those_of_the_first() {
    let flag = "web3=10.0.0.3:443,weight=2,max-connections=9,max-handshakes=auto,slow-start=30s,check=https,check-path=/up,agent=9999,agent-interval=5s";
    let backend = crate::control::backend::backend(flag).unwrap().backend;
    let add_it = What::Add { pool: "shop".into(), backend: backend.clone().into() };
    let all = ordered(&[add_it, add("api", "web3", 3)]);
    assert_eq!(all.iter().next().unwrap().what.to_string(), format!("add shop {flag}"));
    let kept = from_json(&to_json(&all)).unwrap();
    assert_eq!(kept, all);
    let laid = lay(&file(), &kept, NOW).wanted;
    assert_eq!(laid.pools[0].backends[2], backend);
    assert_eq!(laid.pools[1].backends[1].limits, backend.limits);
    assert_eq!(laid.faults(), []);
    let asked = laid.asked()["web3"];
    assert_eq!((asked.0.map(|c| c.path.as_str()), asked.1.map(|a| a.port)), (Some("/up"), Some(9999)));
}
