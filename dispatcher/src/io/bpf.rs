//! The door to `bpf(2)`, and a small assembler: as much of both as the XDP program needs.

use core::mem::size_of_val;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Commands of `bpf(2)`.
mod command {
    pub const MAP_CREATE: libc::c_long = 0;
    pub const MAP_UPDATE_ELEM: libc::c_long = 2;
    pub const MAP_DELETE_ELEM: libc::c_long = 3;
    pub const PROG_LOAD: libc::c_long = 5;
    #[cfg(test)]
    pub const PROG_TEST_RUN: libc::c_long = 10;
    pub const LINK_CREATE: libc::c_long = 28;
    pub const LINK_UPDATE: libc::c_long = 29;
}

/// Kinds of maps.
#[derive(Clone, Copy)]
pub(super) enum MapKind {
    /// Any key.
    Hash = 1,
    /// Queue number -> AF_XDP socket.
    Xsk = 17,
}

/// Where a program is attached to a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hook {
    /// In the stack, on any device: `XDP_FLAGS_SKB_MODE`.
    Generic = 2,
    /// In the driver: `XDP_FLAGS_DRV_MODE`.
    Native = 4,
}

/// The attributes of a command: fields in the order of the kernel's `union bpf_attr`, zeros behind them.
///
/// # Safety
/// The pointers among the fields must be valid for what the command does with them, until it returns.
unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: pointer and size describe `attributes`; the caller answers for the pointers in it.
    let r = unsafe { libc::syscall(libc::SYS_bpf, command, core::ptr::from_mut(attributes), size_of_val(attributes)) };
    if r == -1 { Err(io::Error::last_os_error()) } else { Ok(r) }
}

fn descriptor(r: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it. The kernel opens them close-on-exec.
    unsafe { OwnedFd::from_raw_fd(r as i32) }
}

/// A map; gone when nobody has it open.
#[derive(Debug)]
pub(super) struct Map {
    fd: OwnedFd,
    key: usize,
}

impl Map {
    /// For `entries` keys of `key` bytes, with values of four.
    pub(super) fn new(kind: MapKind, key: usize, entries: usize) -> io::Result<Map> {
        #[repr(C)]
        struct Attributes {
            kind: u32,
            key: u32,
            value: u32,
            entries: u32,
            flags: u32,
        }
        let mut attributes =
            Attributes { kind: kind as u32, key: key as u32, value: 4, entries: entries.max(1) as u32, flags: 0 };
        // SAFETY: no pointers.
        let fd = unsafe { bpf(command::MAP_CREATE, &mut attributes) }.map(descriptor)?;
        Ok(Map { fd, key })
    }

    /// Sets the value of a key.
    pub(super) fn set(&self, key: &[u8], value: u32) -> io::Result<()> {
        let mut entry = self.entry(key, Some(&value));
        // SAFETY: the kernel reads as many bytes of the key as the map was made for (`entry` has checked), and four of
        // the value; both outlive the call.
        unsafe { bpf(command::MAP_UPDATE_ELEM, &mut entry) }.map(|_| ())
    }

    /// Takes a key out. That it is not there is no fault.
    pub(super) fn remove(&self, key: &[u8]) -> io::Result<()> {
        let mut entry = self.entry(key, None);
        // SAFETY: the kernel reads as many bytes of the key as the map was made for (`entry` has checked); it outlives
        // the call. No value is looked at.
        match unsafe { bpf(command::MAP_DELETE_ELEM, &mut entry) } {
            Err(e) if e.raw_os_error() != Some(libc::ENOENT) => Err(e),
            _ => Ok(()),
        }
    }

    fn entry(&self, key: &[u8], value: Option<&u32>) -> MapEntry {
        assert_eq!(key.len(), self.key, "key of another size");
        MapEntry {
            map: self.fd.as_raw_fd() as u32,
            _pad: 0,
            key: key.as_ptr() as u64,
            value: value.map_or(0, |value| core::ptr::from_ref(value) as u64),
            flags: 0,
        }
    }
}

/// The attributes of the commands about one entry of a map.
#[repr(C)]
struct MapEntry {
    map: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// A program that the kernel has verified.
#[derive(Debug)]
pub(super) struct Program(OwnedFd);

impl Program {
    /// Loads an XDP program. `frags`: it may be given frames in several buffers, of which it sees the first (Linux 5.18). When the verifier
    /// refuses it, the error says what it said.
    pub(super) fn load(name: &str, code: &[Instruction], frags: bool) -> io::Result<Program> {
        #[repr(C)]
        struct Attributes {
            kind: u32,
            instruction_count: u32,
            instructions: u64,
            license: u64,
            log_level: u32,
            log_size: u32,
            log: u64,
            kernel_version: u32,
            flags: u32,
            name: [u8; 16],
        }
        const XDP: u32 = 6;
        const HAS_FRAGS: u32 = 1 << 5;
        let license = c"Dual MIT/GPL";
        let load = |log: &mut [u8]| {
            let mut attributes = Attributes {
                kind: XDP,
                instruction_count: code.len() as u32,
                instructions: code.as_ptr() as u64,
                license: license.as_ptr() as u64,
                log_level: u32::from(!log.is_empty()),
                log_size: log.len() as u32,
                log: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
                kernel_version: 0,
                flags: if frags { HAS_FRAGS } else { 0 },
                name: [0; 16],
            };
            for (to, from) in attributes.name.iter_mut().zip(name.bytes().take(15)) {
                *to = from;
            }
            // SAFETY: instructions, licence and log are described by their lengths (the licence by its zero byte) and
            // outlive the call; the kernel writes to the log only.
            unsafe { bpf(command::PROG_LOAD, &mut attributes) }.map(|fd| Program(descriptor(fd)))
        };
        load(&mut []).or_else(|e| {
            if !matches!(e.raw_os_error(), Some(libc::EACCES | libc::EINVAL)) {
                return Err(e);
            }
            // Once more, to be told why.
            let mut log = vec![0; 1 << 20];
            load(&mut log).map_err(|_| {
                let said = String::from_utf8_lossy(log.split(|b| *b == 0).next().unwrap_or_default()).into_owned();
                let last: Vec<_> = said.lines().rev().take(4).collect();
                match last.is_empty() {
                    true => e,
                    false => io::Error::other(format!("the kernel's verifier: {}", last.join(" < "))),
                }
            })
        })
    }

    /// Attaches it to a device, for as long as the returned descriptor is open: it goes with the process.
    pub(super) fn attach(&self, device: u32, hook: Hook) -> io::Result<OwnedFd> {
        #[repr(C)]
        struct Attributes {
            program: u32,
            device: u32,
            kind: u32,
            flags: u32,
            _rest: [u32; 4],
        }
        const XDP: u32 = 37;
        let mut attributes =
            Attributes { program: self.0.as_raw_fd() as u32, device, kind: XDP, flags: hook as u32, _rest: [0; 4] };
        // SAFETY: no pointers.
        unsafe { bpf(command::LINK_CREATE, &mut attributes) }.map(descriptor)
    }

    /// Takes the place of the program that is attached by this link, in one step.
    pub(super) fn replace(&self, link: &OwnedFd) -> io::Result<()> {
        #[repr(C)]
        struct Attributes {
            link: u32,
            program: u32,
            flags: u32,
            old_program: u32,
        }
        let (link, program) = (link.as_raw_fd() as u32, self.0.as_raw_fd() as u32);
        let mut attributes = Attributes { link, program, flags: 0, old_program: 0 };
        // SAFETY: no pointers.
        unsafe { bpf(command::LINK_UPDATE, &mut attributes) }.map(|_| ())
    }

    /// Runs it on one frame: what it decided.
    #[cfg(test)]
    pub(super) fn run(&self, frame: &[u8]) -> io::Result<u32> {
        #[repr(C)]
        struct Attributes {
            program: u32,
            verdict: u32,
            size_in: u32,
            size_out: u32,
            data_in: u64,
            data_out: u64,
            repeat: u32,
            duration: u32,
            ctx_size_in: u32,
            ctx_size_out: u32,
            ctx_in: u64,
            ctx_out: u64,
        }
        let mut attributes = Attributes {
            program: self.0.as_raw_fd() as u32,
            verdict: 0,
            size_in: frame.len() as u32,
            size_out: 0,
            data_in: frame.as_ptr() as u64,
            data_out: 0,
            repeat: 1,
            duration: 0,
            ctx_size_in: 0,
            ctx_size_out: 0,
            ctx_in: 0,
            ctx_out: 0,
        };
        // SAFETY: the frame is described by its length and outlives the call; nothing is asked to be written.
        unsafe { bpf(command::PROG_TEST_RUN, &mut attributes) }.map(|_| attributes.verdict)
    }
}

/// One instruction, as the kernel reads it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Instruction {
    code: u8,
    /// Destination in the low four bits, source in the high.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A register. 0: results; 1 to 5: arguments, lost by calls; 6 to 9: kept; 10: the frame pointer.
pub(super) type Register = u8;
/// The end of the program's stack.
pub(super) const FP: Register = 10;

/// A place in the program to jump to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Label(usize);

/// How wide a load or store is.
#[derive(Clone, Copy)]
pub(super) enum Width {
    Byte = 0x10,
    Half = 0x08,
    Word = 0x00,
    Double = 0x18,
}

/// What must hold for a jump.
#[derive(Clone, Copy)]
pub(super) enum When {
    Equal = 0x10,
    Greater = 0x20,
    AnyBit = 0x40,
    NotEqual = 0x50,
}

/// Helper functions of the kernel's.
#[derive(Clone, Copy)]
pub(super) enum Helper {
    MapLookup = 1,
    RedirectMap = 51,
}

/// Puts a program together.
#[derive(Default)]
pub(super) struct Assembler {
    code: Vec<Instruction>,
    /// Where labels stand.
    places: Vec<Option<usize>>,
    /// Jumps to labels.
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    fn push(&mut self, code: u8, dst: Register, src: Register, offset: i16, immediate: i32) {
        self.code.push(Instruction { code, registers: dst | src << 4, offset, immediate });
    }

    /// A label that stands nowhere yet.
    pub(super) fn label(&mut self) -> Label {
        self.places.push(None);
        Label(self.places.len() - 1)
    }

    /// The label stands before the next instruction.
    pub(super) fn here(&mut self, label: Label) {
        self.places[label.0] = Some(self.code.len());
    }

    /// `dst = src`
    pub(super) fn copy(&mut self, dst: Register, src: Register) {
        self.push(0xbf, dst, src, 0, 0);
    }

    /// `dst = value`
    pub(super) fn set(&mut self, dst: Register, value: i32) {
        self.push(0xb7, dst, 0, 0, value);
    }

    /// `dst += value`
    pub(super) fn add(&mut self, dst: Register, value: i32) {
        self.push(0x07, dst, 0, 0, value);
    }

    /// `dst &= value`
    pub(super) fn and(&mut self, dst: Register, value: i32) {
        self.push(0x57, dst, 0, 0, value);
    }

    /// `dst = *(src + offset)`
    pub(super) fn load(&mut self, width: Width, dst: Register, src: Register, offset: i16) {
        self.push(0x61 | width as u8, dst, src, offset, 0);
    }

    /// `*(dst + offset) = src`
    pub(super) fn store(&mut self, width: Width, dst: Register, offset: i16, src: Register) {
        self.push(0x63 | width as u8, dst, src, offset, 0);
    }

    /// `*(dst + offset) = value`
    pub(super) fn store_value(&mut self, width: Width, dst: Register, offset: i16, value: i32) {
        self.push(0x62 | width as u8, dst, 0, offset, value);
    }

    /// `dst = map`
    pub(super) fn map(&mut self, dst: Register, map: &Map) {
        const MAP_DESCRIPTOR: Register = 1;
        self.push(0x18, dst, MAP_DESCRIPTOR, 0, map.fd.as_raw_fd());
        self.push(0, 0, 0, 0, 0);
    }

    /// Goes on at the label.
    pub(super) fn jump(&mut self, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(0x05, 0, 0, 0, 0);
    }

    /// Goes on at the label if so.
    pub(super) fn jump_if(&mut self, a: Register, when: When, value: i32, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(0x05 | when as u8, a, 0, 0, value);
    }

    /// The same with two registers.
    pub(super) fn jump_if_register(&mut self, a: Register, when: When, b: Register, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(0x0d | when as u8, a, b, 0, 0);
    }

    pub(super) fn call(&mut self, helper: Helper) {
        self.push(0x85, 0, 0, 0, helper as i32);
    }

    pub(super) fn exit(&mut self) {
        self.push(0x95, 0, 0, 0, 0);
    }

    /// The program.
    ///
    /// # Panics
    /// When a label stands nowhere, or too far away: a mistake in the program.
    pub(super) fn finish(mut self) -> Vec<Instruction> {
        for (at, label) in self.jumps {
            let to = self.places[label.0].expect("every label stands somewhere");
            self.code[at].offset = i16::try_from(to as isize - at as isize - 1).expect("a jump within reach");
        }
        self.code
    }
}
