use super::*;
use lb::{MemberSpec, State};
use std::net::SocketAddr;

const NOW: u64 = 1_800_000_000;

const FILE: &str = r#"
[[port]]
name = "wan"
driver = "af-packet:eth0"
ip = ["10.0.0.1/8"]

[[service]]
name = "shop"
listen = ["10.0.0.100:443"]
pool = "shop"

[pool.shop]
backend = [{ name = "web1", address = "10.1.0.1:443" }, { name = "web2", address = "10.1.0.2:443" }]
"#;

/// Remembers what it was told, and refuses when it is told to.
#[derive(Default)]
struct Plane {
    changes: Vec<(Wanted, Vec<String>)>,
    forgotten: Vec<String>,
    leaving: Vec<String>,
    refuse: Option<&'static str>,
}

impl DataPlane for Plane {
    fn apply(&mut self, wanted: &Wanted, reset: &[String]) -> Result<Done, String> {
        self.try_out(wanted)?;
        self.changes.push((wanted.clone(), reset.to_vec()));
        Ok(Done { took: Duration::from_millis(3), late: None })
    }

    fn try_out(&self, _: &Wanted) -> Result<(), String> {
        self.refuse.map_or(Ok(()), |why| Err(why.to_string()))
    }

    fn with_agents(&self, wanted: &Wanted, _: &Overrides) -> Wanted {
        wanted.clone()
    }

    fn is_leaving(&self, backend: &str) -> bool {
        self.leaving.iter().any(|b| b == backend)
    }

    fn forget(&mut self, backend: &str) -> Result<Done, String> {
        self.forgotten.push(backend.to_string());
        Ok(Done::default())
    }
}

/// A folder of its own with the file in it, until it is dropped.
struct Scene {
    folder: PathBuf,
    plane: Plane,
    live: Live,
}

impl Scene {
    fn new(name: &str) -> Scene {
        let folder = std::env::temp_dir().join(format!("dispatcher-live-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("d.toml"), FILE).unwrap();
        let (live, notes) = Scene::start(&folder, NOW);
        assert_eq!(notes, [""; 0]);
        Scene { folder, plane: Plane::default(), live }
    }

    fn start(folder: &Path, now: u64) -> (Live, Vec<String>) {
        let home = folder.join("d.toml");
        let source = Source::file(&home.display().to_string(), &contents(&home).unwrap()).unwrap();
        Live::new(Some(home), source, Some(Saved::at(&folder.join("overrides"))), now)
    }

    fn write(&self, from: &str, to: &str) -> String {
        assert!(FILE.contains(from), "{from}");
        let text = FILE.replacen(from, to, 1);
        std::fs::write(self.folder.join("d.toml"), &text).unwrap();
        text
    }

    fn order(&mut self, what: What, time: Option<u64>) -> Result<Applied, Problem> {
        let order = Order { who: "uid 0".into(), what, time: time.map(Duration::from_secs), why: None };
        self.live.order(&order, &mut self.plane, NOW)
    }

    fn state(&mut self, backend: &str, state: State, time: Option<u64>) -> Result<Applied, Problem> {
        self.order(What::State(backend.into(), state), time)
    }

    fn reload(&mut self) -> Result<Applied, Problem> {
        self.live.reload(false, &mut self.plane, NOW)
    }

    /// The states that are in force, as they were told last.
    fn states(&self) -> Vec<String> {
        let (wanted, _) = self.plane.changes.last().expect("something was changed");
        assert_eq!(wanted, self.live.in_force());
        wanted.pools[0].backends.iter().map(|b| format!("{} {}", b.name, b.state)).collect()
    }

    /// Whatever is done, nothing is changed by it.
    fn refused(&mut self, status: u16, why: &str, job: impl FnOnce(&mut Scene) -> Result<Applied, Problem>) {
        let before = (self.live.in_force().clone(), self.live.version(), self.plane.changes.len());
        let problem = job(self).unwrap_err();
        assert_eq!(problem.status, status, "{problem:?}");
        assert!(problem.failure.error.contains(why) && !problem.failure.error.contains('\n'), "{problem:?}");
        assert_eq!((self.live.in_force().clone(), self.live.version(), self.plane.changes.len()), before);
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn changes(applied: &Applied) -> Vec<String> {
    applied.changes.iter().map(|c| format!("{} {}", c.sign, c.what)).collect()
}

#[test]
fn an_order_is_in_force_survives_a_restart_and_is_told() {
    let mut scene = Scene::new("order");
    let before = scene.live.version();
    let done = scene.state("web1", State::Draining, Some(600)).unwrap();
    assert_eq!(changes(&done), ["~ backend web1: state up -> draining"]);
    assert_eq!((done.took, done.version == before), (0.003, false));
    assert_eq!(scene.states(), ["web1 draining", "web2 up"]);
    let diff = scene.live.diff(NOW + 10).unwrap();
    assert_eq!(diff.changes, []);
    assert_eq!(
        (diff.overrides[0].what.as_str(), diff.overrides[0].since, diff.overrides[0].left),
        ("drain web1", 10, Some(590))
    );
    let (again, notes) = Scene::start(&scene.folder, NOW + 60);
    assert_eq!(again.in_force(), scene.live.in_force());
    assert!(notes.len() == 1 && notes[0].contains("'drain web1' (by uid 0) is in force"), "{notes:?}");
    let (later, notes) = Scene::start(&scene.folder, NOW + 600);
    assert_eq!(*later.in_force(), later.configuration().wanted);
    assert!(notes[0].contains("its time is over"), "{notes:?}");
}

#[test]
fn when_its_time_is_over_the_file_holds_again_and_a_refusal_is_told_once_and_tried_again() {
    let mut scene = Scene::new("expiry");
    scene.state("web1", State::Draining, Some(600)).unwrap();
    assert_eq!(scene.live.expire(&mut scene.plane, NOW + 599), [""; 0]);
    scene.plane.refuse = Some("too much");
    let told = scene.live.expire(&mut scene.plane, NOW + 600);
    assert!(told.len() == 1 && told[0].contains("too much"), "{told:?}");
    for now in NOW + 600..NOW + 650 {
        assert_eq!(scene.live.expire(&mut scene.plane, now), [""; 0]);
    }
    scene.plane.refuse = None;
    let told = scene.live.expire(&mut scene.plane, NOW + 700);
    assert!(told.len() == 1 && told[0].contains("its time is over"), "{told:?}");
    assert_eq!(scene.states(), ["web1 up", "web2 up"]);
    assert_eq!(Scene::start(&scene.folder, NOW).1, [""; 0], "it is written down no more");
}

#[test]
fn what_expires_takes_along_what_does_not_fit_without_it() {
    let mut scene = Scene::new("along");
    let add = |name: &str, last| What::Add {
        pool: "shop".into(),
        backend: MemberSpec::new(name, SocketAddr::from(([10, 1, 0, last], 443))).into(),
    };
    scene.order(add("web3", 3), Some(60)).unwrap();
    for backend in ["web1", "web2"] {
        scene.order(What::Remove { backend: backend.into(), now: false }, None).unwrap();
    }
    assert_eq!(scene.states(), ["web3 up"]);
    scene.refused(409, "pool shop has no backend", |s| {
        s.order(What::Remove { backend: "web3".into(), now: false }, None)
    });
    let told = scene.live.expire(&mut scene.plane, NOW + 60);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[1].contains("'remove web2' (by uid 0) is over: pool shop has no backend"), "{told:?}");
    assert_eq!(scene.states(), ["web2 up"]);
}

#[test]
fn a_reload_leaves_overrides_and_a_changed_line_wins_and_says_so() {
    let mut scene = Scene::new("reload");
    scene.state("web1", State::Draining, None).unwrap();
    scene.write("\"10.0.0.100:443\"", "\"10.0.0.100:443\", \"10.0.0.101:443\"");
    let pending = scene.live.diff(NOW).unwrap();
    assert_eq!(pending.changes[0].what, "service shop: listener 10.0.0.101:443");
    let done = scene.reload().unwrap();
    assert_eq!(changes(&done), ["+ service shop: listener 10.0.0.101:443"]);
    assert_eq!(done.notes, ["override 'drain web1' (by uid 0) stays"]);
    assert_eq!(scene.states(), ["web1 draining", "web2 up"]);
    scene.write("10.1.0.1:443\"", "10.1.0.1:443\", state = \"down\"");
    let done = scene.reload().unwrap();
    assert!(done.notes[0].contains("is over: the file says down now, not up any more, and wins"), "{done:?}");
    assert_eq!(scene.states(), ["web1 down", "web2 up"]);
    assert_eq!(scene.live.overrides().iter().len(), 0);
    assert_eq!(Scene::start(&scene.folder, NOW).1, [""; 0]);
}

#[test]
fn a_file_with_faults_or_one_that_takes_a_restart_changes_nothing_and_all_is_told() {
    let mut scene = Scene::new("faults");
    scene.state("web1", State::Draining, None).unwrap();
    let text = scene.write("[pool.shop]", "[pool.shop]\nballance = \"maglev\"\nhash-on = \"moon\"");
    scene.refused(422, "d.toml: 2 faults, nothing was changed", Scene::reload);
    let problem = scene.live.apply("x.toml", text.as_bytes(), true, &mut scene.plane, NOW).unwrap_err();
    let faults: Vec<_> = problem.failure.faults.iter().map(|f| (f.line, f.column)).collect();
    assert_eq!(faults, [(13, 1), (14, 11)]);
    scene.write("[[port]]", "[dispatcher]\nworkers = 2\nidle = \"spin\"\n[[port]]");
    scene.refused(409, "needs a restart: workers 1 -> 2; idle sleep -> spin; nothing was changed", Scene::reload);
    scene.write("10.0.0.1/8", "10.0.0.2/8");
    scene.refused(409, "port wan: ip 10.0.0.1/8 -> 10.0.0.2/8", Scene::reload);
    // A dry run says the same and is none.
    let dry = scene.live.reload(true, &mut scene.plane, NOW).unwrap();
    assert_eq!(changes(&dry), ["! port wan: ip 10.0.0.1/8 -> 10.0.0.2/8"]);
    assert!(dry.notes[1].contains("it would be refused: needs a restart"), "{dry:?}");
    std::fs::remove_file(scene.folder.join("d.toml")).unwrap();
    scene.refused(422, "d.toml: No such file", Scene::reload);
    std::fs::create_dir(scene.folder.join("d.toml")).unwrap();
    scene.refused(422, "it is no file", Scene::reload);
}

#[test]
fn what_the_workers_side_refuses_changes_nothing() {
    let mut scene = Scene::new("refused");
    scene.plane.refuse = Some("2049 addresses, at most 2048 are possible");
    scene.refused(409, "2049 addresses", |s| s.state("web1", State::Down, None));
    scene.write("10.0.0.100:443", "10.0.0.101:443");
    scene.refused(409, "2049 addresses", Scene::reload);
    assert!(!scene.folder.join("overrides").exists());
    let dry = scene.live.reload(true, &mut scene.plane, NOW).unwrap();
    assert!(dry.notes[0].contains("it would be refused: 2049 addresses"), "{dry:?}");
}

#[test]
fn a_dry_run_says_what_would_be_and_changes_nothing() {
    let mut scene = Scene::new("dry");
    let before = (scene.live.version(), scene.live.in_force().clone());
    let text = scene.write("10.0.0.100:443", "10.0.0.101:443");
    let dry = scene.live.apply("x.toml", text.as_bytes(), true, &mut scene.plane, NOW).unwrap();
    assert!(dry.dry_run && dry.version == before.0);
    assert_eq!(changes(&dry), ["- service shop: listener 10.0.0.100:443", "+ service shop: listener 10.0.0.101:443"]);
    assert_eq!((scene.live.version(), scene.live.in_force().clone()), before);
    assert!(scene.plane.changes.is_empty());
    let done = scene.live.apply("x.toml", text.as_bytes(), false, &mut scene.plane, NOW).unwrap();
    assert_eq!((done.changes, done.notes), (dry.changes, vec![]));
    assert_eq!(scene.live.described().text, Some(text));
    // Another file than a restart would take.
    let done = scene.live.apply("y.toml", FILE.as_bytes(), false, &mut scene.plane, NOW).unwrap();
    assert!(done.notes[0].contains("d.toml, which is another file"), "{done:?}");
    assert_eq!(scene.live.described().file.as_deref(), Some("y.toml"));
}

#[test]
fn orders_that_do_not_fit_are_refused_with_what_was_meant() {
    let mut scene = Scene::new("orders");
    scene.refused(404, "there is no backend 'web3'; did you mean 'web1'?", |s| s.state("web3", State::Up, None));
    scene.order(What::Weight("web1".into(), 0), None).unwrap();
    scene.refused(409, "every IPv4 backend has weight 0", |s| s.order(What::Weight("web2".into(), 0), None));
    let add = |name: &str, addr: &str| What::Add {
        pool: "shop".into(),
        backend: MemberSpec::new(name, addr.parse().unwrap()).into(),
    };
    scene.refused(409, "two backends have the address 10.1.0.1:443", |s| s.order(add("web9", "10.1.0.1:443"), None));
    scene.refused(409, "backend 'web9' has the address of a VIP", |s| s.order(add("web9", "10.0.0.100:443"), None));
    scene.refused(409, "(192.0.2.1) is in no port's network", |s| s.order(add("web9", "192.0.2.1:443"), None));
    let what = What::Add { pool: "shoe".into(), backend: MemberSpec::new("x", "10.1.0.9:1".parse().unwrap()).into() };
    scene.refused(404, "did you mean 'shop'?", |s| s.order(what, None));
}

#[test]
fn who_was_removed_and_is_waited_for_can_be_removed_at_once() {
    let mut scene = Scene::new("now");
    let remove = |now| What::Remove { backend: "web1".into(), now };
    scene.order(remove(false), None).unwrap();
    assert_eq!(scene.plane.changes.last().unwrap().1, [""; 0]);
    scene.refused(404, "there is no backend 'web1'", |s| s.order(remove(true), None));
    scene.plane.leaving = vec!["web1".into()];
    let done = scene.order(remove(true), None).unwrap();
    assert_eq!(changes(&done), ["- connections of backend web1"]);
    assert_eq!(scene.plane.changes.last().unwrap().1, ["web1"]);
    scene.refused(404, "there is no backend 'web1'", |s| s.order(remove(false), None));
}

#[test]
fn with_flags_the_same_orders_work_and_a_reload_says_that_there_is_no_file() {
    let configuration = file::read("f", FILE.as_bytes()).unwrap();
    let (mut live, _) = Live::new(None, Source::flags(configuration), None, NOW);
    let mut plane = Plane::default();
    let drain = Order { who: "uid 0".into(), what: What::State("web1".into(), State::Draining), time: None, why: None };
    assert_eq!(live.order(&drain, &mut plane, NOW).unwrap().notes, [""; 0]);
    let problem = live.reload(false, &mut plane, NOW).unwrap_err();
    assert!(problem.status == 409 && problem.failure.error.contains("there is no file to reload"), "{problem:?}");
    let diff = live.diff(NOW).unwrap();
    assert_eq!((diff.changes.len(), diff.overrides.len()), (0, 1));
    let done = live.apply("f.toml", FILE.as_bytes(), false, &mut plane, NOW).unwrap();
    assert_eq!(done.notes.last().unwrap(), "a restart takes the flags again");
    assert_eq!(plane.changes.len(), 1, "nothing else is wanted");
}

#[test]
fn only_a_backend_that_is_there_is_forgotten() {
    let mut scene = Scene::new("forget");
    assert!(scene.live.forget("web1", &mut scene.plane).is_ok());
    assert_eq!(scene.live.forget("web9", &mut scene.plane).unwrap_err().status, 404);
    assert_eq!(scene.plane.forgotten, ["web1"]);
}
