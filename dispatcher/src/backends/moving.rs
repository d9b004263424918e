//! What is known of the backends as bytes, for another process, and back. Questions under way are not: they are asked again.

use super::{Backend, Checked, Health, Passive};
use crate::pack::{Pack, Packer, Unpacker, Unreadable, of_backend, packed_words};
use crate::time::Time;
use lb::BackendId;

packed_words!(Passive { Up = 0, Fresh = 1, Refuses = 2, Silent = 3, Cut = 4 });
packed_words!(Checked { Unknown = 0, Up = 1, Down = 2 });

impl Health {
    /// Writes it.
    pub fn pack(&self, to: &mut Packer) {
        let known = || self.backends.iter().enumerate().filter_map(|(i, b)| Some((BackendId(i as u16), b.as_ref()?)));
        (known().count() as u32).pack(to);
        for (id, backend) in known() {
            let Backend {
                addr: _,
                passive,
                since,
                checked,
                awaits_check,
                failures,
                doubted,
                known,
                probe: _,
                probe_due: _,
                asked,
                postponed: _,
                heard,
                reached,
            } = backend;
            to.sized(|to| {
                id.pack(to);
                (*passive, *since).pack(to);
                (*checked, *awaits_check).pack(to);
                (*failures, *doubted).pack(to);
                known.pack(to);
                (*asked, *heard).pack(to);
                reached.pack(to);
            });
        }
    }

    /// Takes over what another process knew of those that are here, and asks again what it was asking.
    pub fn take_over(&mut self, from: &mut Unpacker<'_>, now: Time) -> Result<(), Unreadable> {
        for _ in 0..u32::unpack(from)? {
            let mut one = from.sized()?;
            let Some(id) = of_backend(&mut one)? else { continue };
            let (passive, since) = Pack::unpack(&mut one)?;
            let (checked, awaits_check) = Pack::unpack(&mut one)?;
            let (failures, doubted) = Pack::unpack(&mut one)?;
            let known = Pack::unpack(&mut one)?;
            let (asked, heard) = Pack::unpack(&mut one)?;
            let reached = Pack::unpack(&mut one)?;
            let Some(b) = self.get_mut(id) else { continue };
            let addr = b.addr;
            *b = Backend {
                addr,
                passive,
                since,
                checked,
                awaits_check,
                failures,
                doubted,
                known,
                probe: None,
                probe_due: now,
                asked,
                postponed: 0,
                heard,
                reached,
            };
            self.settle(id);
        }
        self.changes = self.changes.wrapping_add(1);
        self.due = if self.probing { now } else { self.due };
        self.refresh_offers();
        Ok(())
    }
}
