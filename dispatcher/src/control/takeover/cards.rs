//! Devices that one process only can have ([`Cards`]) change hands while nobody serves, between `TAKEN` and `GO`:
//!
//! | who | says | and does |
//! |---|---|---|
//! | old | `FREE` | it has let go of them |
//! | new | `OPENED` | it has opened them |
//! | old | `GO` | the last step, as ever |
//!
//! All else has been moved by then: if the new one cannot open them, dies, or says nothing, the old one opens them again and goes on, having lost what came meanwhile. Where it cannot, because
//! they are gone, nobody can: it ends.

use super::{Failed, GO, LONGEST, SOON, expect, in_words, refuse};
use crate::io::cards::{Card, Cards, Spread, Told};
use crate::io::end_process;
use crate::io::pass::Passage;
use crate::pack::{Pack, Packer, Unpacker, Unreadable};
use crate::wire::Mac;
use core::time::Duration;
use std::io::ErrorKind;
use std::time::Instant;

/// What is told of them, as a section of its own behind the `WELCOME`.
const CARDS: u32 = 12;
const VERSION: u32 = 1;

pub(super) const FREE: u32 = 13;
pub(super) const OPENED: u32 = 14;

/// How long is waited.
pub(super) struct Patience {
    /// The new one may take so long to open them.
    open: Duration,
    /// The old one tries for so long to open them again.
    back: Duration,
    /// A process that says nothing meanwhile, and may have them, is made to end then.
    enough: Duration,
}

/// Some cards load a program first; and TCP goes on repeating for longer than all of it.
pub(super) const PATIENCE: Patience =
    Patience { open: Duration::from_secs(20), back: Duration::from_secs(10), enough: Duration::from_secs(2) };

/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Writes what is told.
pub(super) fn pack(told: &Told, to: &mut Packer) {
    to.section(CARDS, VERSION, |to| {
        told.virtual_addresses.pack(to);
        super::pack_all(&told.cards, to, |card, to| {
            card.name.pack(to);
            to.raw(&card.mac.0);
            card.spread.is_some().pack(to);
            let Some(spread) = &card.spread else { return };
            to.block(&spread.key);
            super::pack_all(&spread.table, to, |queue, to| queue.pack(to));
            (spread.v4, spread.v6).pack(to);
        });
    });
}

/// Reads it, where it has been told.
pub(super) fn read(from: &mut Unpacker<'_>) -> Result<Option<Told>, Unreadable> {
    let nobody = crate::pack::Ids::default();
    while let Some(section) = from.section()? {
        if section.kind != CARDS {
            continue;
        }
        if section.version != VERSION {
            return Err(Unreadable::Unknown { kind: section.kind, version: section.version });
        }
        let from = &mut Unpacker::new(section.bytes, &nobody);
        let virtual_addresses = bool::unpack(from)?;
        let cards = super::unpack_all(from, |from| {
            let name = String::unpack(from)?;
            let mac = Mac(from.raw(6)?.try_into().map_err(|_| Unreadable::CutOff)?);
            if !bool::unpack(from)? {
                return Ok(Card { name, mac, spread: None });
            }
            let key = from.block()?.to_vec();
            let table = super::unpack_all(from, u16::unpack)?;
            let (v4, v6) = Pack::unpack(from)?;
            Ok(Card { name, mac, spread: Some(Spread { key, table, v4, v6 }) })
        })?;
        return Ok(Some(Told { cards, virtual_addresses }));
    }
    Ok(None)
}

/// The old one's part, to the last step; how long it took, in words. `Err`: it has them again and goes on, unless it says that it is over.
pub(super) fn hand_over(
    passage: &mut Passage,
    cards: &dyn Cards,
    heir: Option<i32>,
    patience: &Patience,
    meanwhile: &mut dyn FnMut(bool),
) -> Result<String, Failed> {
    let began = Instant::now();
    let given = cards.let_go().and_then(|()| {
        let free = began.elapsed();
        let sent = |e: std::io::Error| in_words(&e);
        passage.send(FREE, &[], &[], SOON).map_err(sent)?;
        let until = Instant::now() + patience.open;
        while !passage.poll(LOOK).map_err(sent)? && Instant::now() < until {
            meanwhile(false);
        }
        expect(passage, OPENED, until)?;
        passage.send(GO, &[], &[], SOON).map_err(sent)?;
        let opened = began.elapsed() - free;
        Ok(format!("devices let go of in {} ms, opened in {} ms", free.as_millis(), opened.as_millis()))
    });
    let why = match given {
        Ok(words) => return Ok(words),
        Err(why) => why,
    };
    refuse(passage, &why);
    match take_back(passage, cards, heir, patience, meanwhile) {
        Ok(()) => Err(why.into()),
        Err(lost) => Err(Failed { why: format!("{why}; {lost}"), over: true }),
    }
}

/// Opens them again, for as long as the other process may still be about to let go of them.
fn take_back(
    passage: &mut Passage,
    cards: &dyn Cards,
    heir: Option<i32>,
    patience: &Patience,
    meanwhile: &mut dyn FnMut(bool),
) -> Result<(), String> {
    let began = Instant::now();
    loop {
        let Err(why) = cards.take_up() else { return Ok(()) };
        if began.elapsed() >= patience.back {
            return Err(why);
        }
        // It has been told. Whoever holds the connection still does nothing, and nobody serves; and the number is its own for as long as it does.
        if began.elapsed() >= patience.enough
            && let (false, Some(pid)) = (has_gone(passage), heir)
        {
            end_process(pid);
        }
        meanwhile(false);
        std::thread::sleep(LOOK);
    }
}

/// Whether the other process has ended, or its connection.
fn has_gone(passage: &mut Passage) -> bool {
    loop {
        match passage.receive(Instant::now() + Duration::from_millis(1)) {
            Ok(_) => {}
            Err(e) => return !matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock),
        }
    }
}

/// The new one's part, to the last step. `Err`: it has none of them.
pub(super) fn receive(passage: &mut Passage, cards: &dyn Cards) -> Result<(), String> {
    let died = hear(passage, FREE)?;
    let until = Instant::now() + SOON;
    let mut opened = cards.take_up();
    // What has died has let go a moment later.
    while died && opened.is_err() && Instant::now() < until {
        std::thread::sleep(LOOK);
        opened = cards.take_up();
    }
    opened?;
    // If it has died meanwhile, that is heard next.
    _ = passage.send(OPENED, &[], &[], SOON);
    let went = hear(passage, GO);
    if went.is_err() {
        _ = cards.let_go();
    }
    went.map(|_| ())
}

/// Waits for the old one's word, all that it was being here: true when it has died instead.
pub(super) fn hear(passage: &mut Passage, kind: u32) -> Result<bool, String> {
    match passage.receive(Instant::now() + LONGEST) {
        Ok(message) if message.kind == kind => Ok(false),
        Err(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => Ok(true),
        Ok(message) => Err(String::from_utf8_lossy(&message.bytes).into_owned()),
        Err(e) => Err(in_words(&e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::process::{Child, Command};
    use std::sync::{Arc, Mutex};

    const SHORT: Patience = Patience {
        open: Duration::from_millis(200),
        back: Duration::from_millis(400),
        enough: Duration::from_millis(100),
    };

    /// One device, and who has it.
    #[derive(Clone, Default)]
    struct Bus(Arc<Mutex<Option<&'static str>>>);

    /// One process's way to it. `broken`: it cannot open it. `until`: nobody can before this process has ended.
    struct Way<'a> {
        bus: Bus,
        who: &'static str,
        broken: bool,
        until: Option<&'a Mutex<Child>>,
    }

    impl Way<'_> {
        fn of(who: &'static str, bus: &Bus) -> Way<'static> {
            Way { bus: bus.clone(), who, broken: false, until: None }
        }
    }

    impl Cards for Way<'_> {
        fn tell(&self) -> Told {
            Told { cards: Vec::new(), virtual_addresses: true }
        }

        fn let_go(&self) -> Result<(), String> {
            let mut had = self.bus.0.lock().unwrap();
            assert_eq!(*had, Some(self.who), "lets go of what it does not have");
            *had = None;
            Ok(())
        }

        fn take_up(&self) -> Result<(), String> {
            let mut has = self.bus.0.lock().unwrap();
            let busy = self.until.is_some_and(|child| child.lock().unwrap().try_wait().unwrap().is_none());
            if busy || self.broken || has.is_some() {
                return Err("device busy".into());
            }
            *has = Some(self.who);
            Ok(())
        }
    }

    fn passages() -> (Passage, Passage) {
        let (a, b) = UnixStream::pair().unwrap();
        (Passage::new(a).unwrap(), Passage::new(b).unwrap())
    }

    fn bus() -> Bus {
        Bus(Arc::new(Mutex::new(Some("old"))))
    }

    /// What the old one and the new one say in the end, and who has the device then.
    fn both(new_is_broken: bool) -> (Result<(), Failed>, Result<(), String>, Option<&'static str>) {
        let (bus, (mut old, mut new)) = (bus(), passages());
        let (of_old, mut of_new) = (Way::of("old", &bus), Way::of("new", &bus));
        of_new.broken = new_is_broken;
        let (gave, got) = std::thread::scope(|scope| {
            let heir = scope.spawn(move || {
                let got = receive(&mut new, &of_new);
                got.inspect_err(|why| refuse(&mut new, why))
            });
            let gave = hand_over(&mut old, &of_old, None, &PATIENCE, &mut |turning| assert!(!turning));
            (gave, heir.join().unwrap())
        });
        let has = *bus.0.lock().unwrap();
        (gave.map(|_| ()), got, has)
    }

    #[test]
    fn a_device_changes_hands_and_goes_back_when_the_new_one_cannot_open_it() {
        assert_eq!(both(false), (Ok(()), Ok(()), Some("new")));
        let busy = "device busy".to_string();
        assert_eq!(both(true), (Err(busy.clone().into()), Err(busy), Some("old")));
    }

    #[test]
    fn the_old_one_has_it_again_when_the_new_one_dies_or_says_nothing_or_nonsense() {
        let gives = |new: Option<Passage>, mut old: Passage| {
            let bus = bus();
            let gave = hand_over(&mut old, &Way::of("old", &bus), None, &SHORT, &mut |_| ());
            assert_eq!(*bus.0.lock().unwrap(), Some("old"));
            drop(new);
            gave.unwrap_err()
        };
        let (old, _) = passages();
        assert_eq!(gives(None, old), "it has ended".into());
        let (old, new) = passages();
        assert_eq!(gives(Some(new), old), "it takes too long".into());
        let (old, mut new) = passages();
        new.send(77, &[], &[], SOON).unwrap();
        assert_eq!(gives(Some(new), old), "it says 77 where 14 is due".into());
    }

    #[test]
    fn whoever_holds_it_and_says_nothing_is_made_to_end_and_a_device_that_is_gone_is_the_end() {
        let sleeper = Mutex::new(Command::new("sleep").arg("600").spawn().unwrap());
        let heir = sleeper.lock().unwrap().id() as i32;
        let (bus, (mut old, new)) = (bus(), passages());
        let way = Way { until: Some(&sleeper), ..Way::of("old", &bus) };
        let patience = Patience { back: PATIENCE.back, ..SHORT };
        let gave = hand_over(&mut old, &way, Some(heir), &patience, &mut |_| ());
        assert_eq!(gave, Err("it takes too long".into()));
        assert!(!sleeper.lock().unwrap().wait().unwrap().success(), "it was made to end");
        assert_eq!(*way.bus.0.lock().unwrap(), Some("old"));
        let way = Way { broken: true, ..Way::of("old", &bus) };
        let gave = hand_over(&mut old, &way, None, &SHORT, &mut |_| ());
        assert_eq!(gave, Err(Failed { why: "it takes too long; device busy".into(), over: true }));
        drop(new);
    }

    #[test]
    fn the_new_one_opens_it_when_the_old_one_has_died_and_lets_go_when_it_goes_on() {
        let (bus, (old, mut new)) = (Bus::default(), passages());
        drop(old);
        let way = Way::of("new", &bus);
        assert_eq!(receive(&mut new, &way), Ok(()));
        assert_eq!(*bus.0.lock().unwrap(), Some("new"));
        way.let_go().unwrap();
        let (mut old, mut new) = passages();
        old.send(FREE, &[], &[], SOON).unwrap();
        refuse(&mut old, "too late");
        assert_eq!(receive(&mut new, &way), Err("too late".into()));
        assert_eq!(*bus.0.lock().unwrap(), None);
    }

    #[test]
    fn what_is_told_is_read_as_it_was_written_and_an_older_process_tells_nothing() {
        let spread = Spread { key: (0..52).collect(), table: vec![0, 1, 0, 1], v4: true, v6: false };
        let card = |name: &str, spread| Card { name: name.into(), mac: Mac([2, 0, 0, 0, 0, 7]), spread };
        let told = Told {
            cards: vec![card("0000:03:00.0", Some(spread)), card("net_af_packet0", None)],
            virtual_addresses: false,
        };
        let mut to = Packer::new();
        pack(&told, &mut to);
        let (bytes, nobody) = (to.into_bytes(), crate::pack::Ids::default());
        assert_eq!(read(&mut Unpacker::new(&bytes, &nobody)), Ok(Some(told)));
        assert_eq!(read(&mut Unpacker::new(&[], &nobody)), Ok(None));
        for len in 1..bytes.len() {
            assert!(read(&mut Unpacker::new(&bytes[..len], &nobody)).is_err(), "{len}");
        }
    }
}
