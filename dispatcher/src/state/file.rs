//! The file itself: whose it is, how it is made, and what its clock shows.

use super::header::{Beat, Header, PAGE, file_bytes, machine};
use super::rows;
use crate::engine::{Share, TableSize, session_time};
use crate::io::lasting;
use crate::time::Time;
use lb::affinity::{Memory, SAVED_WORDS};
use memmap2::MmapRaw;
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, BufReader, ErrorKind, Read};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const NOT_KEPT: &str = "what is learned from now on will not outlive this process";

/// A file that is being written, and locked as long as this lives.
pub struct State {
    words: Arc<Mapped>,
    _file: File,
    beat: Beat,
    path: PathBuf,
    /// Where it is, as long as another process has its place.
    waiting: Option<PathBuf>,
    lost: bool,
    /// How far the clock of rows is ahead of [`session_time`].
    ahead: u64,
}

/// What should be known of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Note {
    /// As it should be.
    Said(String),
    /// Somebody should look at it.
    Trouble(String),
}

impl Note {
    /// In words.
    pub fn text(&self) -> &str {
        match self {
            Note::Said(text) | Note::Trouble(text) => text,
        }
    }
}

/// All of a file, as words.
struct Mapped {
    map: MmapRaw,
    words: usize,
}

impl Mapped {
    fn new(file: &File, bytes: u64) -> io::Result<Mapped> {
        let map = MmapRaw::map_raw(file)?;
        let words = usize::try_from(bytes / 8).map_err(io::Error::other)?;
        if map.len() < words * 8 {
            return Err(io::Error::other("it became shorter"));
        }
        let mapped = Mapped { map, words };
        lasting::guard(&mapped.range())?;
        Ok(mapped)
    }

    fn range(&self) -> Range<*mut u8> {
        let start = self.map.as_mut_ptr();
        start..start.wrapping_add(self.map.len())
    }

    fn write(&self, at: usize, words: &[u64]) {
        self.as_ref()[at..at + words.len()].iter().zip(words).for_each(|(to, word)| to.store(*word, Relaxed));
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        lasting::unguard(&self.range());
    }
}

impl AsRef<[AtomicU64]> for Mapped {
    fn as_ref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is at least so long, begins at a page, is writable and lives as long as `self`. All of it is atomic words to whoever
        // sees it in this process; the file is locked, and what others might write into it all the same would be other words, which are
        // only ever read to be replaced.
        unsafe { std::slice::from_raw_parts(self.map.as_mut_ptr().cast::<AtomicU64>(), self.words) }
    }
}

/// The rows behind the page.
struct Rows(Arc<Mapped>);

impl AsRef<[AtomicU64]> for Rows {
    fn as_ref(&self) -> &[AtomicU64] {
        &(*self.0).as_ref()[PAGE..]
    }
}

/// Takes in what the file at `path` has for the tables of these workers, and keeps there what they learn from now on. What should be known of it
/// stands in the lines. `None` when nothing is kept. `wall`: milliseconds since 1970.
pub fn open(path: &Path, shares: &mut [Share], now: Time, wall: u64) -> (Option<State>, Vec<Note>) {
    let mut notes = Vec::new();
    let shown = path.display();
    let state = match try_open(path, shares, now, wall, &mut notes) {
        Ok(state) => Some(state),
        Err(why) => {
            notes.push(Note::Trouble(format!("state {shown}: {why}: {NOT_KEPT}")));
            None
        }
    };
    (state, notes)
}

/// As [`open`], where another process has the file and is to be taken over from: its rows come another way. What is learned is kept beside it, until
/// [`State::put_in_place`].
pub fn open_beside(path: &Path, shares: &mut [Share], now: Time, wall: u64) -> (Option<State>, Vec<Note>) {
    let shown = path.display();
    match try_open_beside(path, shares, now, wall) {
        Ok(state) => (Some(state), Vec::new()),
        Err(why) => (None, vec![Note::Trouble(format!("state {shown}: {why}: {NOT_KEPT}"))]),
    }
}

fn try_open_beside(path: &Path, shares: &mut [Share], now: Time, wall: u64) -> Result<State, String> {
    let new_path = beside(path, ".new");
    let new = lock_new(&new_path)?;
    let here = this_machine();
    let rows = Share::kept_rows(shares) as u64;
    // Its holder writes what time it is there, and goes on doing so: that is believed or not, as a whole.
    let clock = File::open(path).ok().and_then(|file| {
        let mut bytes = [0; PAGE * 8];
        (&file).read_exact(&mut bytes).ok()?;
        let len = file.metadata().ok()?.len();
        Header::read(&rows::words(&bytes), len, here).ok().map(|(_, beat)| beat.clock_at(wall))
    });
    let beat = Beat { number: 1, clock: clock.unwrap_or(wall), wall };
    let ahead = beat.clock.wrapping_sub(session_time(now).0);
    let words = make(&new, Header { machine: here, rows }, beat).inspect_err(|_| _ = fs::remove_file(&new_path))?;
    let memory: Memory = Arc::new(Rows(words.clone()));
    Share::keep(shares, &memory, ahead);
    Ok(State { words, _file: new, beat, path: path.to_owned(), waiting: Some(new_path), lost: false, ahead })
}

fn try_open(path: &Path, shares: &mut [Share], now: Time, wall: u64, notes: &mut Vec<Note>) -> Result<State, String> {
    let shown = path.display();
    let new_path = beside(path, ".new");
    let new = lock_new(&new_path)?;
    let abandon = |why: String| {
        let _ = fs::remove_file(&new_path);
        why
    };
    let here = this_machine();
    let rows = Share::kept_rows(shares) as u64;
    let old = match Old::open(path, here) {
        Ok(old) => old,
        Err(why) => return Err(abandon(why)),
    };
    // Room first: with none, what is known is still taken in.
    let beat = Beat { number: 1, clock: old.as_ref().and_then(Old::beat).map_or(wall, |b| b.clock_at(wall)), wall };
    let ahead = beat.clock.wrapping_sub(session_time(now).0);
    let made = make(&new, Header { machine: here, rows }, beat);
    if let Ok(words) = &made {
        let memory: Memory = Arc::new(Rows(words.clone()));
        Share::keep(shares, &memory, ahead);
    }
    let mut replaces = true;
    match old {
        None => notes.push(Note::Said(format!("state {shown}: there is none yet; it begins"))),
        Some(Old::Unbelieved(why)) => {
            replaces = set_aside(path, &format!("{why}: nothing of it is known"), notes);
        }
        Some(Old::Believed { file, header, beat }) => {
            let (taken, read) = rows::take(BufReader::with_capacity(1 << 18, &file), &header, &beat, shares, now, wall);
            notes.push(Note::Said(format!("state {shown}: {taken}")));
            if let Err(e) = read {
                notes.push(Note::Trouble(format!("state {shown}: cannot be read to its end: {e}")));
            }
            // Each worker may have been writing one.
            if taken.damaged > crate::engine::MAX_WORKERS as u64 {
                set_aside(path, "so many rows do not become damaged by a process that dies", notes);
            }
        }
    }
    let words = made.map_err(abandon)?;
    if !replaces {
        return Err(abandon("its place is taken".into()));
    }
    fs::rename(&new_path, path).map_err(|e| abandon(format!("cannot be put in its place: {e}")))?;
    Ok(State { words, _file: new, beat, path: path.to_owned(), waiting: None, lost: false, ahead })
}

impl State {
    /// Takes the place of another process's file, which has been taken over from. What should be known stands in the line.
    pub fn put_in_place(&mut self) -> Option<String> {
        let from = self.waiting.take()?;
        let why = fs::rename(&from, &self.path).err()?;
        Some(format!("state {}: cannot be put in its place: {why}: {NOT_KEPT}", self.path.display()))
    }

    /// Of the mapping: pages of the file, which the system may write out and take back.
    pub fn size(&self) -> TableSize {
        let words = (*self.words).as_ref().len();
        TableSize { name: "state file, rows", entries: (words - PAGE) / SAVED_WORDS, bytes: words * 8 }
    }

    /// Notes what time it is. Once a second or so. What should be known stands in the line.
    pub fn beat(&mut self, now: Time, wall: u64) -> Option<String> {
        let clock = session_time(now).0.wrapping_add(self.ahead).max(self.beat.clock);
        self.beat = Beat { number: self.beat.number + 1, clock, wall };
        self.words.write(self.beat.place(), &self.beat.to_words());
        let news = lasting::lost() && !std::mem::replace(&mut self.lost, true);
        news.then(|| {
            let shown = self.path.display();
            format!("state {shown}: the disk has taken it away: {NOT_KEPT}")
        })
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // Nobody has been taken over from.
        self.waiting.iter().for_each(|path| _ = fs::remove_file(path));
    }
}

/// What was there before.
enum Old {
    Believed { file: File, header: Header, beat: Beat },
    Unbelieved(String),
}

impl Old {
    /// `Err` when it is in use, or cannot be looked at.
    fn open(path: &Path, here: [u64; 2]) -> Result<Option<Old>, String> {
        let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.to_string()),
        };
        lock(&file, "it is in use by another dispatcher")?;
        let about = file.metadata().map_err(|e| e.to_string())?;
        if !about.is_file() {
            return Err("it is not a file".into());
        }
        let mut bytes = [0; PAGE * 8];
        if let Err(e) = (&file).read_exact(&mut bytes) {
            return match e.kind() {
                ErrorKind::UnexpectedEof => Ok(Some(Old::Unbelieved(format!("it has {} bytes only", about.len())))),
                _ => Ok(Some(Old::Unbelieved(format!("it cannot be read: {e}")))),
            };
        }
        Ok(Some(match Header::read(&rows::words(&bytes), about.len(), here) {
            Ok((header, beat)) => Old::Believed { file, header, beat },
            Err(why) => Old::Unbelieved(why.to_string()),
        }))
    }

    fn beat(&self) -> Option<&Beat> {
        match self {
            Old::Believed { beat, .. } => Some(beat),
            Old::Unbelieved(_) => None,
        }
    }
}

/// The file that is to be, empty, and locked: nobody else begins meanwhile.
fn lock_new(path: &Path) -> Result<File, String> {
    const TRIES: usize = 3;
    let shown = path.display();
    let failed = |e: io::Error| format!("{shown}: {e}");
    for _ in 0..TRIES {
        let mut how = OpenOptions::new();
        how.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = how.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path).map_err(failed)?;
        lock(&file, "another dispatcher is starting with it")?;
        let mine = file.metadata().map_err(failed)?;
        // Whoever had it before may have given it its name meanwhile.
        if fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (mine.dev(), mine.ino())) {
            if !mine.is_file() {
                return Err(format!("{shown}: it is not a file"));
            }
            file.set_permissions(Permissions::from_mode(0o600)).map_err(failed)?;
            file.set_len(0).map_err(failed)?;
            return Ok(file);
        }
    }
    Err("other dispatchers are starting with it".into())
}

fn lock(file: &File, in_use: &str) -> Result<(), String> {
    file.try_lock().map_err(|e| match e {
        TryLockError::WouldBlock => in_use.to_string(),
        TryLockError::Error(e) => format!("it cannot be locked: {e}"),
    })
}

/// Takes the disk's room for all of it, and maps it.
fn make(file: &File, header: Header, beat: Beat) -> Result<Arc<Mapped>, String> {
    let bytes = file_bytes(header.rows).ok_or("too many rows")?;
    lasting::reserve(file, bytes).map_err(|e| format!("no room for {bytes} bytes: {e}"))?;
    let words = Arc::new(Mapped::new(file, bytes).map_err(|e| format!("cannot be mapped: {e}"))?);
    words.write(beat.place(), &beat.to_words());
    words.write(0, &header.to_words());
    Ok(words)
}

/// True when its name is free.
fn set_aside(path: &Path, why: &str, notes: &mut Vec<Note>) -> bool {
    let (shown, aside) = (path.display(), beside(path, ".damaged"));
    match fs::rename(path, &aside) {
        Ok(()) => {
            notes.push(Note::Trouble(format!("state {shown}: {why}; set aside as {}", aside.display())));
            true
        }
        Err(e) => {
            notes.push(Note::Trouble(format!("state {shown}: {why}; it cannot be set aside: {e}")));
            false
        }
    }
}

fn beside(path: &Path, with: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(with);
    name.into()
}

fn this_machine() -> [u64; 2] {
    machine(&fs::read_to_string("/etc/machine-id").unwrap_or_default())
}
