//! The file that keeps overrides over a restart: JSON, written anew as a whole, for its owner only.
//!
//! It is only ever replaced by another whole one, so that a crash leaves the one or the other. What cannot be understood is set aside, and said;
//! the dispatcher starts without it.

use super::{MAX_OVERRIDES, MAX_WHY, Override, Overrides, Setting};
use crate::control::file::at_most;
use crate::control::member::{Particulars, Question, Scalar};
use crate::control::name::check_name;
use lb::{MAX_WEIGHT, MemberSpec, State};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Of the format.
const VERSION: u32 = 1;

/// Longest file: each override has a reason and what the configuration said of a backend in many pools.
const LONGEST: usize = 4 << 20;

/// Characters of who, and of what the configuration said.
const LONGEST_TEXT: usize = 64 << 10;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    overrides: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    what: Kind,
    backend: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pool: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<SocketAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_connections: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_handshakes: Option<Scalar>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    slow_start: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    check: Option<Question>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    agent_check: Option<Question>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tunnel: Option<Question>,
    who: String,
    since: u64,
    until: Option<u64>,
    why: Option<String>,
    file: String,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Ready,
    Drain,
    Disable,
    Weight,
    Add,
    Remove,
}

/// As they are written.
pub fn to_json(all: &Overrides) -> Vec<u8> {
    let entry = |one: &Override| {
        let (mut pool, mut address, mut number, mut said) = (None, None, None, Particulars::default());
        let what = match &one.what {
            Setting::State(_, State::Up) => Kind::Ready,
            Setting::State(_, State::Draining) => Kind::Drain,
            Setting::State(_, State::Down) => Kind::Disable,
            Setting::Weight(_, weight) => {
                number = Some(*weight);
                Kind::Weight
            }
            Setting::Added { pool: to, backend } => {
                (pool, address, number) = (Some(to.clone()), Some(backend.addr), Some(backend.weight));
                said = Particulars::of(backend);
                Kind::Add
            }
            Setting::Removed(_) => Kind::Remove,
        };
        let Override { who, since, until, why, file, .. } = one.clone();
        let backend = one.what.backend().to_string();
        let Particulars { max_connections, max_handshakes, slow_start, check, agent_check, tunnel } = said;
        let weight = number;
        #[rustfmt::skip]
        let entry = Entry {
            what, backend, pool, address, weight, max_connections, max_handshakes, slow_start, check, agent_check, tunnel, who, since, until, why, file,
        };
        entry
    };
    let document = Document { version: VERSION, overrides: all.iter().map(entry).collect() };
    // Cannot fail: there are no keys but words in it.
    let mut text = serde_json::to_vec_pretty(&document).unwrap_or_default();
    text.push(b'\n');
    text
}

/// As they were written; or why not.
pub fn from_json(text: &[u8]) -> Result<Overrides, String> {
    if text.len() > LONGEST {
        return Err(format!("longer than {LONGEST} bytes"));
    }
    let document: Document = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    if document.version != VERSION {
        return Err(format!("it is of version {}, not {VERSION}", document.version));
    }
    if document.overrides.len() > MAX_OVERRIDES {
        return Err(format!("more than {MAX_OVERRIDES} overrides"));
    }
    Overrides::new(document.overrides.into_iter().map(read).collect::<Result<_, _>>()?)
}

fn read(entry: Entry) -> Result<Override, String> {
    let Entry { what, backend, pool, address, weight, who, since, until, why, file, .. } = entry;
    let Entry { max_connections, max_handshakes, slow_start, check, agent_check, tunnel, .. } = entry;
    let said = Particulars { max_connections, max_handshakes, slow_start, check, agent_check, tunnel };
    let named = |e: String| format!("backend '{}': {e}", backend.escape_debug());
    check_name(&backend).map_err(named)?;
    let missing = |key: &str| format!("backend '{backend}': no '{key}'");
    let bounded = || {
        let weight = weight.ok_or_else(|| missing("weight"))?;
        if weight <= MAX_WEIGHT { Ok(weight) } else { Err(format!("backend '{backend}': weight {weight}")) }
    };
    let what = match what {
        Kind::Ready => Setting::State(backend, State::Up),
        Kind::Drain => Setting::State(backend, State::Draining),
        Kind::Disable => Setting::State(backend, State::Down),
        Kind::Weight => {
            let weight = bounded()?;
            Setting::Weight(backend, weight)
        }
        Kind::Add => {
            let (pool, addr) = (pool.ok_or_else(|| missing("pool"))?, address.ok_or_else(|| missing("address"))?);
            check_name(&pool)?;
            let mut backend = MemberSpec { weight: bounded()?, ..MemberSpec::new(backend, addr) };
            said.say(&mut backend).map_err(|e| format!("backend '{}': {e}", backend.name))?;
            Setting::Added { pool, backend: Box::new(backend) }
        }
        Kind::Remove => Setting::Removed(backend),
    };
    let odd = |text: &str| text.chars().any(char::is_control);
    if odd(&who) || odd(&file) || who.len() > LONGEST_TEXT || file.len() > LONGEST_TEXT {
        return Err(format!("'{what}': not one line of text"));
    }
    if why.as_deref().is_some_and(|why| odd(why) || why.chars().count() > MAX_WHY) {
        return Err(format!("'{what}': 'why' is none"));
    }
    Ok(Override { what, who, since, until, why, file })
}

/// Where they are kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Saved {
    path: PathBuf,
}

impl Saved {
    /// In this file, which need not be there.
    pub fn at(path: &Path) -> Saved {
        Saved { path: path.to_owned() }
    }

    /// Its name when nothing else is said: beside the control socket.
    pub fn beside(socket: &Path) -> Saved {
        let mut path = socket.as_os_str().to_owned();
        path.push(".overrides");
        Saved { path: path.into() }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was kept; and what should be known of it, if anything.
    pub fn load(&self) -> (Overrides, Option<String>) {
        let shown = self.path.display();
        let text = match at_most(LONGEST, &self.path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return (Overrides::default(), None),
            Err(e) => return (Overrides::default(), Some(format!("overrides {shown}: {e}; there are none"))),
        };
        match from_json(&text) {
            Ok(all) => (all, None),
            Err(why) => {
                let aside = self.with(".damaged");
                let put = match fs::rename(&self.path, &aside) {
                    Ok(()) => format!("set aside as {}", aside.display()),
                    Err(e) => format!("it cannot be set aside ({e})"),
                };
                (Overrides::default(), Some(format!("overrides {shown}: damaged ({why}): {put}; there are none")))
            }
        }
    }

    /// Keeps these, and no others. `Err`: what was kept before still is.
    pub fn keep(&self, all: &Overrides) -> io::Result<()> {
        let new = self.with(".new");
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            // It may have been left behind by another, with another mode.
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
            file.write_all(&to_json(all))?;
            file.sync_all()?;
            fs::rename(&new, &self.path)?;
            let folder = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(folder)?.sync_all()
        })();
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    }

    fn with(&self, end: &str) -> PathBuf {
        let mut path = self.path.as_os_str().to_owned();
        path.push(end);
        path.into()
    }
}
