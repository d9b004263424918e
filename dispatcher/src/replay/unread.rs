//! What of a capture is not read, by name. Who replays a trace before going live must not take "0 connections" for an answer when
//! all of them are in PPPoE.

use super::decode::Undecoded;
use crate::capture::LinkType;
use std::collections::BTreeMap;

/// Frames that were read, and those that were not.
#[derive(Clone, Debug, Default)]
pub struct Unread {
    /// TCP and UDP packets that were read.
    taken: u64,
    /// Frames in all.
    frames: u64,
    /// Of the file under way.
    of_file: u64,
    files: u64,
    empty_files: u64,
    counts: BTreeMap<String, u64>,
    /// In frames of these wrappings there may be connections.
    wrapped: BTreeMap<String, u64>,
}

/// A capture, or part of it, was not read, though nothing is wrong with it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotRead(pub String);

/// Names told apart; what comes later is counted together.
const NAMES: usize = 64;

impl Unread {
    /// A frame was read.
    pub fn taken(&mut self) {
        self.taken += 1;
        self.frames += 1;
        self.of_file += 1;
    }

    /// A frame was not.
    pub fn not_taken(&mut self, why: Undecoded) {
        self.frames += 1;
        self.of_file += 1;
        let (name, wraps) = name(why);
        for counts in [Some(&mut self.counts), wraps.then_some(&mut self.wrapped)].into_iter().flatten() {
            let known = counts.len() < NAMES || counts.contains_key(&name);
            *counts.entry(if known { name.clone() } else { "others".to_owned() }).or_default() += 1;
        }
    }

    /// A file has come to its end.
    pub fn end_of_file(&mut self) {
        self.files += 1;
        self.empty_files += u64::from(self.of_file == 0);
        self.of_file = 0;
    }

    /// Frames that were not read, by name.
    pub fn counts(&self) -> &BTreeMap<String, u64> {
        &self.counts
    }

    /// In one line, when there may be connections in what was not read, or when nothing was read at all.
    pub fn complaint(&self) -> Option<NotRead> {
        let frames = self.frames;
        let said = if self.empty_files > 0 && self.empty_files == self.files {
            "the capture has no frames".to_owned()
        } else if self.taken == 0 && frames > 0 {
            format!("none of {frames} frames was read: {}", listed(&self.counts))
        } else if !self.wrapped.is_empty() {
            let n: u64 = self.wrapped.values().sum();
            format!("{n} of {frames} frames were not read, and any connections in them: {}", listed(&self.wrapped))
        } else if self.empty_files > 0 {
            format!("{} of {} captures have no frames", self.empty_files, self.files)
        } else {
            return None;
        };
        Some(NotRead(said))
    }
}

/// `PPPoE 12, MPLS 3`, the most frequent first.
pub fn listed(counts: &BTreeMap<String, u64>) -> String {
    let mut all: Vec<_> = counts.iter().collect();
    all.sort_by_key(|(name, n)| (std::cmp::Reverse(**n), *name));
    all.iter().map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", ")
}

/// What it is called, and whether it wraps IP packets.
fn name(why: Undecoded) -> (String, bool) {
    match why {
        Undecoded::LinkType(link) => {
            let known = link_name(link).map_or(String::new(), |name| format!(" ({name})"));
            (format!("link type {}{known}", link.0), true)
        }
        Undecoded::NotIp(None) => ("not IP".to_owned(), false),
        Undecoded::NotIp(Some(kind)) => match kind {
            // A length, of IEEE 802.3: spanning tree and the like.
            0..=0x05ff => ("IEEE 802.3".to_owned(), false),
            _ => match ETHERTYPES.iter().find(|(of, ..)| *of == kind) {
                Some((_, name, wraps)) => ((*name).to_owned(), *wraps),
                None => (format!("EtherType 0x{kind:04x}"), false),
            },
        },
        Undecoded::OtherProtocol(protocol) => match PROTOCOLS.iter().find(|(of, ..)| *of == protocol) {
            Some((_, name, wraps)) => ((*name).to_owned(), *wraps),
            None => (format!("IP protocol {protocol}"), false),
        },
        Undecoded::Fragment | Undecoded::Truncated | Undecoded::Malformed => (why.as_str().to_owned(), false),
    }
}

/// By number, as IEEE lists them: the name, and whether IP packets lie behind it.
const ETHERTYPES: &[(u16, &str, bool)] = &[
    (0x0806, "ARP", false),
    (0x0842, "Wake-on-LAN", false),
    (0x22f3, "TRILL", true),
    (0x8035, "RARP", false),
    (0x809b, "AppleTalk", false),
    (0x8137, "IPX", false),
    (0x8809, "LACP", false),
    (0x8847, "MPLS", true),
    (0x8863, "PPPoE discovery", false),
    (0x8864, "PPPoE", true),
    (0x886d, "Intel probe", false),
    (0x888e, "EAPOL", false),
    (0x88cc, "LLDP", false),
    (0x88e1, "HomePlug", false),
    (0x88e5, "MACsec", true),
    (0x88f7, "PTP", false),
    (0x8912, "HomePlug", false),
    (0x894f, "NSH", true),
    (0x9000, "loopback test", false),
];

/// The same for IP protocols, by IANA's numbers.
const PROTOCOLS: &[(u8, &str, bool)] = &[
    (1, "ICMP", false),
    (2, "IGMP", false),
    (4, "IP in IP", true),
    (41, "IPv6 in IP", true),
    (47, "GRE", true),
    (50, "ESP", false),
    (51, "AH", false),
    (58, "ICMPv6", false),
    (59, "no next header", false),
    (88, "EIGRP", false),
    (89, "OSPF", false),
    (97, "Ethernet in IP", true),
    (103, "PIM", false),
    (112, "VRRP", false),
    (115, "L2TP", true),
    (132, "SCTP", false),
    (137, "MPLS in IP", true),
];

/// tcpdump.org's names of link types that are met with.
fn link_name(link: LinkType) -> Option<&'static str> {
    Some(match link.0 {
        3 => "AX.25",
        6 => "token ring",
        7 => "ARCNET",
        8 => "SLIP",
        9 => "PPP",
        10 => "FDDI",
        50 => "PPP in HDLC-like framing",
        51 => "PPPoE",
        100 => "ATM",
        104 => "Cisco HDLC",
        105 => "IEEE 802.11",
        107 => "frame relay",
        114 => "LocalTalk",
        117 => "OpenBSD pflog",
        119 => "Prism",
        122 => "IP over Fibre Channel",
        123 => "SunATM",
        127 => "IEEE 802.11 with radiotap",
        129 => "ARCNET, Linux",
        138 => "IP over IEEE 1394",
        140 => "SS7 MTP2",
        141 => "SS7 MTP3",
        143 => "DOCSIS",
        147..=162 => "user-defined",
        163 => "IEEE 802.11 with AVS",
        166 => "PPP, pppd",
        169 => "GPRS LLC",
        177 => "LAPD, Linux",
        187 | 201 => "Bluetooth HCI",
        189 | 220 => "USB",
        192 => "PPI",
        195 | 215 | 230 => "IEEE 802.15.4",
        203 => "LAPD",
        204 => "PPP with direction",
        205 => "Cisco HDLC with direction",
        206 => "frame relay with direction",
        219 => "SLIP, Linux",
        226 => "Solaris ipnet",
        227 => "CAN",
        231 => "D-Bus",
        239 => "NFLOG",
        240 => "netANALYZER",
        249 => "USBPcap",
        251 => "Bluetooth LE",
        252 => "exported PDUs",
        253 => "netlink",
        258 => "pktap",
        272 => "nordic BLE",
        274 => "Ethernet, mpacket",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_hide_connections_is_complained_about_and_what_cannot_is_not() {
        let mut unread = Unread::default();
        for _ in 0..3 {
            unread.taken();
        }
        unread.not_taken(Undecoded::NotIp(Some(0x0806)));
        unread.not_taken(Undecoded::OtherProtocol(1));
        unread.end_of_file();
        assert_eq!(unread.complaint(), None);
        assert_eq!(listed(unread.counts()), "ARP 1, ICMP 1");
        unread.not_taken(Undecoded::NotIp(Some(0x8864)));
        unread.not_taken(Undecoded::NotIp(Some(0x8864)));
        unread.not_taken(Undecoded::LinkType(LinkType(105)));
        let said = unread.complaint().unwrap().0;
        assert_eq!(
            said,
            "3 of 8 frames were not read, and any connections in them: PPPoE 2, link type 105 (IEEE 802.11) 1"
        );
    }

    #[test]
    fn nothing_read_at_all_is_said_whatever_it_was() {
        let mut unread = Unread::default();
        unread.end_of_file();
        assert_eq!(unread.complaint().unwrap().0, "the capture has no frames");
        unread.not_taken(Undecoded::NotIp(Some(0x4321)));
        unread.end_of_file();
        assert_eq!(unread.complaint().unwrap().0, "none of 1 frames was read: EtherType 0x4321 1");
        unread.taken();
        assert_eq!(unread.complaint().unwrap().0, "1 of 2 captures have no frames");
    }

    #[test]
    fn names_are_bounded_whatever_a_capture_holds() {
        let mut unread = Unread::default();
        for kind in 0x0600..=u16::MAX {
            unread.not_taken(Undecoded::NotIp(Some(kind)));
            unread.not_taken(Undecoded::LinkType(LinkType(kind)));
        }
        assert!(unread.counts.len() <= NAMES + 1 && unread.wrapped.len() <= NAMES + 1);
        assert_eq!(unread.counts.values().sum::<u64>(), 2 * (0x10000 - 0x600));
    }
}
