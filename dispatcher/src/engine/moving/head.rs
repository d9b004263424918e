//! The first section: whose it is, and what the numbers in all others mean.

use crate::engine::Engine;
use crate::pack::{Ids, Pack, Packer, Unpacker, Unreadable};
use crate::time::Time;
use lb::admission::{ClassId, MAX_CLASSES};
use lb::{Directory, ServiceId};
use std::collections::HashMap;
use std::net::SocketAddr;

/// See the module's description.
pub(super) struct Head {
    pub worker: u32,
    pub workers: u32,
    pub serial: u64,
    /// What has lasted for too long goes at the same moments as there.
    pub swept: Time,
    pub ids: Ids,
    /// By service here: which classes those of its numbers there are. One whose name is not here is the last.
    classes: HashMap<u32, [ClassId; MAX_CLASSES]>,
}

impl Head {
    /// What a class of the other process is here, of a service of this one.
    pub fn class(&self, service: ServiceId, there: ClassId) -> ClassId {
        let classes = self.classes.get(&service.to_bits());
        // Where there is no service nobody is asked.
        classes.and_then(|classes| classes.get(there.index())).copied().unwrap_or(ClassId(u8::MAX))
    }

    /// Of an engine.
    pub fn pack(engine: &Engine, to: &mut Packer) {
        let Engine { worker, workers, serial, swept, directory, .. } = engine;
        Head::pack_of((*worker, *workers), (*serial, *swept), directory, to);
    }

    /// Of what all engines of this directory have in common.
    pub fn pack_common(directory: &Directory, to: &mut Packer) {
        Head::pack_of((0, 1), (0, Time::ZERO), directory, to);
    }

    fn pack_of(
        (worker, workers): (usize, usize),
        (serial, swept): (u64, Time),
        directory: &Directory,
        to: &mut Packer,
    ) {
        (worker as u32, workers as u32).pack(to);
        (serial, swept).pack(to);
        (directory.backends().count() as u32).pack(to);
        for b in directory.backends() {
            (b.id, b.name.clone()).pack(to);
            (b.addr, b.tunnel.map(|tunnel| tunnel.to_string())).pack(to);
        }
        let (services, pools) = (directory.services_called(), directory.pools_called());
        (services.len() as u32).pack(to);
        for (id, name) in services {
            (id, name.to_string()).pack(to);
            let classes = directory.service(id).map_or(&[][..], |service| service.policy().classes.specs());
            (classes.len() as u8).pack(to);
            classes.iter().for_each(|class| class.name.pack(to));
        }
        (pools.len() as u32).pack(to);
        pools.iter().for_each(|(id, name)| (*id, name.to_string()).pack(to));
    }

    /// For an engine with this directory.
    pub fn read(bytes: &[u8], directory: &Directory) -> Result<Head, Unreadable> {
        let nobody = Ids::default();
        let from = &mut Unpacker::new(bytes, &nobody);
        let (worker, workers) = <(u32, u32)>::unpack(from)?;
        let (serial, swept) = Pack::unpack(from)?;
        if worker >= workers || serial > u64::MAX / 2 {
            return Err(Unreadable::Impossible("whose it is"));
        }
        let mut head = Head { worker, workers, serial, swept, ids: Ids::default(), classes: HashMap::new() };
        for _ in 0..u32::unpack(from)? {
            let (number, name) = <(u16, String)>::unpack(from)?;
            let (addr, tunnel) = <(SocketAddr, Option<String>)>::unpack(from)?;
            let same = |b: &&lb::Backend| {
                b.name == name && b.addr == addr && b.tunnel.map(|tunnel| tunnel.to_string()) == tunnel
            };
            if let Some(here) = directory.backends().find(same) {
                head.ids.backends.insert(number, here.id);
            }
        }
        for _ in 0..u32::unpack(from)? {
            let (bits, name) = <(u32, String)>::unpack(from)?;
            let here = directory.services().find(|service| service.name() == name);
            let last = here.map_or(ClassId(u8::MAX), |here| here.policy().classes.last());
            let mut classes = [last; MAX_CLASSES];
            for n in 0..u8::unpack(from)? {
                let name = String::unpack(from)?;
                let at = here.and_then(|here| here.policy().classes.specs().iter().position(|spec| spec.name == name));
                if let (Some(at), Some(class)) = (at, classes.get_mut(usize::from(n))) {
                    *class = ClassId(at as u8);
                }
            }
            if let Some(here) = here {
                head.ids.services.insert(bits, here.id());
                head.classes.insert(here.id().to_bits(), classes);
            }
        }
        for _ in 0..u32::unpack(from)? {
            let (bits, name) = <(u32, String)>::unpack(from)?;
            let here = directory.pools().find(|pool| pool.name() == name);
            here.into_iter().for_each(|pool| _ = head.ids.pools.insert(bits, pool.id()));
        }
        Ok(head)
    }
}
