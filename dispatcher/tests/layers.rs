//! The rooms of the house: who may use whom, that no two files call each other in a circle, and that what lies below the engine knows nothing
//! of it. Read off the sources themselves.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use syn::visit::{self, Visit};

/// From the lowest to the highest; each may use those before it, and of its own line only itself.
const ROOMS: [&[&str]; 10] = [
    &["pack"],
    &["time", "prefetch"],
    &["wire"],
    &["config", "counters"],
    &["flow"],
    &["backends", "tls", "http"],
    &["path"],
    &["tcp"],
    &["engine"],
    &["checks"],
];

/// A file of a room: `tcp/dial`.
type File = String;

struct Source {
    file: File,
    syntax: syn::File,
}

fn room_of(file: &str) -> &str {
    file.split('/').next().unwrap_or(file)
}

fn rank(room: &str) -> Option<usize> {
    ROOMS.iter().position(|rooms| rooms.contains(&room))
}

fn rust_files(dir: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, all);
        } else if path.extension().is_some_and(|e| e == "rs") {
            all.push(path);
        }
    }
}

fn is_test(attrs: &[syn::Attribute]) -> bool {
    attrs.iter().any(|a| a.path().is_ident("cfg") && a.parse_args::<syn::Path>().is_ok_and(|p| p.is_ident("test")))
}

/// All files of the rooms, without their tests.
fn sources() -> Vec<Source> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    rust_files(&src, &mut paths);
    let mut all = Vec::new();
    for path in paths {
        let file = path.strip_prefix(&src).unwrap().with_extension("").to_string_lossy().replace('\\', "/");
        if rank(room_of(&file)).is_none() || file.ends_with("/tests") {
            continue;
        }
        all.push(source(&file, &fs::read_to_string(&path).unwrap()));
    }
    all.sort_by(|a, b| a.file.cmp(&b.file));
    all
}

fn source(file: &str, text: &str) -> Source {
    let mut syntax = syn::parse_file(text).unwrap_or_else(|e| panic!("{file}: {e}"));
    syntax.items.retain(|item| match item {
        syn::Item::Mod(m) => !is_test(&m.attrs),
        syn::Item::Impl(i) => !is_test(&i.attrs),
        syn::Item::Fn(f) => !is_test(&f.attrs),
        _ => true,
    });
    Source { file: file.to_string(), syntax }
}

/// The whole path of every name that a file brings in.
fn imports(syntax: &syn::File) -> HashMap<String, Vec<String>> {
    fn flatten(tree: &syn::UseTree, before: &mut Vec<String>, all: &mut HashMap<String, Vec<String>>) {
        match tree {
            syn::UseTree::Path(p) => {
                before.push(p.ident.to_string());
                flatten(&p.tree, before, all);
                before.pop();
            }
            syn::UseTree::Name(n) if n.ident == "self" => {
                all.insert(before.last().cloned().unwrap_or_default(), before.clone());
            }
            syn::UseTree::Name(n) => {
                let whole = before.iter().cloned().chain([n.ident.to_string()]).collect();
                all.insert(n.ident.to_string(), whole);
            }
            syn::UseTree::Rename(r) => {
                let whole = before.iter().cloned().chain([r.ident.to_string()]).collect();
                all.insert(r.rename.to_string(), whole);
            }
            syn::UseTree::Group(g) => g.items.iter().for_each(|tree| flatten(tree, before, all)),
            syn::UseTree::Glob(_) => {}
        }
    }
    let mut all = HashMap::new();
    for item in &syntax.items {
        if let syn::Item::Use(u) = item {
            flatten(&u.tree, &mut Vec::new(), &mut all);
        }
    }
    all
}

/// What the rooms define, and where.
#[derive(Default)]
struct House {
    files: BTreeSet<File>,
    /// Functions by file and name.
    functions: BTreeSet<(File, String)>,
    /// Methods by type and name: the files that define one.
    methods: BTreeMap<(String, String), BTreeSet<File>>,
    /// By method name: the types that have one.
    types_with: BTreeMap<String, BTreeSet<String>>,
    /// What a file lets others use under its own name.
    exports: BTreeMap<File, HashMap<String, Vec<String>>>,
}

impl House {
    fn of(sources: &[Source]) -> House {
        let mut house = House::default();
        for Source { file, syntax } in sources {
            house.files.insert(file.clone());
            for item in &syntax.items {
                match item {
                    syn::Item::Fn(f) => _ = house.functions.insert((file.clone(), f.sig.ident.to_string())),
                    syn::Item::Impl(i) => {
                        let syn::Type::Path(of) = &*i.self_ty else { continue };
                        let of = of.path.segments.last().unwrap().ident.to_string();
                        for item in &i.items {
                            if let syn::ImplItem::Fn(f) = item {
                                let name = f.sig.ident.to_string();
                                let key = (of.clone(), name.clone());
                                house.methods.entry(key).or_default().insert(file.clone());
                                house.types_with.entry(name).or_default().insert(of.clone());
                            }
                        }
                    }
                    _ => {}
                }
            }
            if file.ends_with("/mod") {
                house.exports.insert(file.clone(), imports(syntax));
            }
        }
        house
    }

    /// The file that a path of modules means, and what of the path is left.
    fn file<'p>(&self, from: &str, path: &'p [String]) -> Option<(File, &'p [String])> {
        let (mut at, mut rest) = match path.first()?.as_str() {
            "crate" => (vec![], &path[1..]),
            "super" => {
                let mut at: Vec<String> = from.split('/').map(str::to_string).collect();
                at.pop();
                (at, &path[1..])
            }
            "self" => (from.trim_end_matches("/mod").split('/').map(str::to_string).collect(), &path[1..]),
            _ => return None,
        };
        while let Some(next) = rest.first() {
            let deeper = [&at[..], std::slice::from_ref(next)].concat().join("/");
            if !self.files.contains(&deeper) && !self.files.contains(&format!("{deeper}/mod")) {
                break;
            }
            at.push(next.clone());
            rest = &rest[1..];
        }
        let file = at.join("/");
        let file = if self.files.contains(&file) { file } else { format!("{file}/mod") };
        self.files.contains(&file).then_some((file, rest))
    }

    /// The file that defines the function at the end of a path.
    fn function(&self, from: &str, path: &[String], depth: usize) -> Option<File> {
        let (file, rest) = self.file(from, path)?;
        match rest {
            [name] if self.functions.contains(&(file.clone(), name.clone())) => Some(file),
            [name] if depth < 4 => {
                let whole = self.exports.get(&file)?.get(name)?.clone();
                let local = !["crate", "super", "self"].contains(&whole[0].as_str());
                let whole = if local { [vec!["self".to_string()], whole].concat() } else { whole };
                self.function(&file, &whole, depth + 1)
            }
            _ => None,
        }
    }
}

/// Names that the standard library's types have, too.
const COMMON: [&str; 24] = [
    "get", "get_mut", "insert", "remove", "contains", "len", "is_empty", "next", "take", "push", "find", "add", "all",
    "any", "apply", "bytes", "is", "key", "read", "write", "advance", "filter", "open", "hash",
];

struct Calls<'a> {
    house: &'a House,
    file: &'a str,
    imports: HashMap<String, Vec<String>>,
    this: Option<String>,
    called: BTreeMap<File, BTreeSet<String>>,
}

impl Calls<'_> {
    fn note(&mut self, file: File, what: &str) {
        if file != self.file {
            self.called.entry(file).or_default().insert(what.to_string());
        }
    }

    fn method(&mut self, of: &str, name: &str) {
        if let Some(files) = self.house.methods.get(&(of.to_string(), name.to_string())).cloned() {
            // One defined here is the one that is meant, if several traits or cases have it.
            if !files.contains(self.file) {
                files.into_iter().for_each(|file| self.note(file, &format!("{of}::{name}")));
            }
        }
    }
}

impl<'ast> Visit<'ast> for Calls<'_> {
    fn visit_item_impl(&mut self, i: &'ast syn::ItemImpl) {
        if let syn::Type::Path(of) = &*i.self_ty {
            self.this = of.path.segments.last().map(|s| s.ident.to_string());
        }
        visit::visit_item_impl(self, i);
        self.this = None;
    }

    fn visit_impl_item_fn(&mut self, f: &'ast syn::ImplItemFn) {
        if !is_test(&f.attrs) {
            visit::visit_impl_item_fn(self, f);
        }
    }

    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        if let syn::Expr::Path(p) = &*call.func {
            let path: Vec<String> = p.path.segments.iter().map(|s| s.ident.to_string()).collect();
            let whole = match self.imports.get(&path[0]) {
                Some(import) => import.iter().chain(&path[1..]).cloned().collect(),
                None => path.clone(),
            };
            if let Some(file) = self.house.function(self.file, &whole, 0) {
                self.note(file, path.last().unwrap());
            } else if let [.., of, name] = &path[..] {
                let of = if of == "Self" { self.this.clone().unwrap_or_default() } else { of.clone() };
                self.method(&of, name);
            }
        }
        visit::visit_expr_call(self, call);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        let name = call.method.to_string();
        let on_self = matches!(&*call.receiver, syn::Expr::Path(p) if p.path.is_ident("self"));
        match (&self.this, on_self) {
            (Some(this), true) => self.method(&this.clone(), &name),
            _ if COMMON.contains(&name.as_str()) => {}
            _ => {
                let types = self.house.types_with.get(&name).cloned().unwrap_or_default();
                if let [of] = &types.into_iter().collect::<Vec<_>>()[..] {
                    let files = &self.house.methods[&(of.clone(), name.clone())];
                    // Of a higher room it cannot be (`every_room_uses_lower_ones_only`): the name is another type's, too.
                    if files.iter().all(|file| rank(room_of(file)) <= rank(room_of(self.file))) {
                        self.method(of, &name);
                    }
                }
            }
        }
        visit::visit_expr_method_call(self, call);
    }
}

type Graph = BTreeMap<File, BTreeMap<File, BTreeSet<String>>>;

fn call_graph(sources: &[Source]) -> Graph {
    let house = House::of(sources);
    let calls = |source: &Source| {
        let Source { file, syntax } = source;
        let mut calls = Calls { house: &house, file, imports: imports(syntax), this: None, called: BTreeMap::new() };
        calls.visit_file(syntax);
        (file.clone(), calls.called)
    };
    sources.iter().map(calls).collect()
}

/// A way from a file back to it, by what is called.
fn circle(graph: &Graph) -> Option<Vec<String>> {
    fn walk<'g>(graph: &'g Graph, at: &'g str, way: &mut Vec<&'g str>, done: &mut BTreeSet<&'g str>) -> bool {
        if let Some(begin) = way.iter().position(|file| *file == at) {
            way.drain(..begin);
            return true;
        }
        if !done.insert(at) {
            return false;
        }
        way.push(at);
        for next in graph.get(at).into_iter().flat_map(|to| to.keys()) {
            if walk(graph, next, way, done) {
                return true;
            }
        }
        way.pop();
        false
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|file| {
        let mut way = Vec::new();
        walk(graph, file, &mut way, &mut done).then(|| {
            let steps = way.iter().zip(way.iter().cycle().skip(1));
            steps.map(|(from, to)| format!("{from} -> {to} by {:?}", graph[*from][*to])).collect()
        })
    })
}

#[test]
fn no_two_files_of_the_core_call_each_other_in_a_circle() {
    let graph = call_graph(&sources());
    assert_eq!(circle(&graph), None);
    // It sees what there is to be seen.
    for (from, to) in [
        ("engine/mod", "engine/arrive"),
        ("engine/arrive", "engine/ladder"),
        ("engine/ladder", "engine/execute"),
        ("engine/ladder", "tcp/forward"),
        ("engine/timers", "tcp/timer"),
        ("engine/execute", "engine/send"),
        ("tcp/timer", "tcp/dial"),
        ("tcp/close", "tcp/forward"),
        ("tls/late", "tls/offered"),
    ] {
        assert!(graph[from].contains_key(to), "{from} calls {to}: {:?}", graph[from]);
    }
}

#[test]
fn a_circle_is_found_through_methods_imports_and_exports() {
    let texts = [
        ("engine/mod", "mod a; mod b; pub use b::turn; pub struct Engine;"),
        ("engine/a", "use super::Engine; impl Engine { pub fn up(&mut self) { self.down(); } }"),
        (
            "engine/b",
            "use crate::tcp::step; impl super::Engine { pub fn down(&mut self) { step(); } } pub fn turn() {}",
        ),
        ("tcp/mod", "mod c; pub use c::step;"),
        ("tcp/c", "pub fn step() {}"),
    ];
    let all = |texts: &[(&str, &str)]| texts.iter().map(|(file, text)| source(file, text)).collect::<Vec<_>>();
    let graph = call_graph(&all(&texts));
    assert!(graph["engine/a"].contains_key("engine/b") && graph["engine/b"].contains_key("tcp/c"));
    assert_eq!(circle(&graph), None);
    let mut turned = texts;
    turned[4].1 = "pub fn step() { crate::engine::turn(); }";
    assert_eq!(circle(&call_graph(&all(&turned))).map(|way| way.len()), Some(2));
    let mut turned = texts;
    turned[2].1 = "impl super::Engine { pub fn down(&mut self) { self.up(); } } pub fn turn() {}";
    assert_eq!(circle(&call_graph(&all(&turned))).map(|way| way.len()), Some(2));
}

#[test]
fn every_room_uses_lower_ones_only() {
    struct Paths(Vec<Vec<String>>);
    impl<'ast> Visit<'ast> for Paths {
        fn visit_path(&mut self, path: &'ast syn::Path) {
            self.0.push(path.segments.iter().map(|s| s.ident.to_string()).collect());
            visit::visit_path(self, path);
        }
    }
    for Source { file, syntax } in sources() {
        let mut paths = Paths(imports(&syntax).into_values().collect());
        paths.visit_file(&syntax);
        let own = room_of(&file);
        for path in paths.0.iter().filter(|path| path.len() > 1 && path[0] == "crate") {
            let other = path[1].as_str();
            let lower = rank(other).is_some_and(|other| Some(other) < rank(own));
            // `sessions` is told by the engine, and knows nothing of it.
            let told = own == "engine" && other == "sessions";
            assert!(other == own || lower || told, "{file} uses {}", path.join("::"));
        }
    }
}

#[test]
fn nothing_below_the_engine_has_it_or_its_effects_in_a_signature() {
    struct Idents(BTreeSet<String>);
    impl<'ast> Visit<'ast> for Idents {
        fn visit_ident(&mut self, ident: &'ast syn::Ident) {
            self.0.insert(ident.to_string());
        }
    }
    struct Signatures<'a>(&'a str);
    impl<'ast> Visit<'ast> for Signatures<'_> {
        fn visit_signature(&mut self, signature: &'ast syn::Signature) {
            let mut idents = Idents(BTreeSet::new());
            idents.visit_signature(signature);
            for engine in ["Engine", "Effects"] {
                assert!(!idents.0.contains(engine), "{}: {} names {engine}", self.0, signature.ident);
            }
        }
    }
    for Source { file, syntax } in sources().iter().filter(|s| room_of(&s.file) != "engine") {
        Signatures(file).visit_file(syntax);
    }
}
