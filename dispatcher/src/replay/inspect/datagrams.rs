//! UDP: flows that speak DTLS. Others are not reported.

use super::report::{Findings, StreamReport, time_string};
use crate::replay::decode::Decoded;
use crate::replay::reassembly::At;
use ssl_parse::{Event, Outcome, Side, dtls};
use std::collections::HashMap;
use std::net::SocketAddr;

/// Longest DTLS handshake message joined from fragments.
const FOLLOWED: usize = 16 * 1024;

/// All UDP flows of a capture.
#[derive(Default)]
pub(super) struct Flows {
    flows: Vec<Flow>,
    latest: HashMap<(SocketAddr, SocketAddr), usize>,
}

struct Flow {
    vlans: Vec<u16>,
    first: At,
    dtls: Option<Box<Dtls>>,
}

struct Dtls {
    client: SocketAddr,
    server: SocketAddr,
    followers: [dtls::Follower<FOLLOWED>; 2],
    findings: Findings,
}

impl Flows {
    /// One datagram's payload. What the recorder cut off cannot be made up for: such datagrams say nothing.
    pub fn datagram(&mut self, packet: &Decoded<'_>, payload: &[u8], missing: usize, at: At) {
        let (src, dst) = (packet.src, packet.dst);
        let tuple = if src < dst { (src, dst) } else { (dst, src) };
        let flow = *self.latest.entry(tuple).or_insert_with(|| {
            self.flows.push(Flow { vlans: packet.vlans.to_vec(), first: at, dtls: None });
            self.flows.len() - 1
        });
        let flow = &mut self.flows[flow];
        if missing > 0 {
            return;
        }
        if flow.dtls.is_none() && !matches!(dtls::client_hello(payload), Outcome::NotTls) {
            flow.dtls = Some(Box::new(Dtls {
                client: src,
                server: dst,
                followers: [dtls::Follower::new(Side::Client), dtls::Follower::new(Side::Server)],
                findings: Findings::default(),
            }));
        }
        if let Some(dtls) = &mut flow.dtls {
            let from_server = usize::from(src == dtls.server);
            let findings = &mut dtls.findings;
            let mut datagram = dtls::Datagram::new(payload);
            while let Some(event) = dtls.followers[from_server].next_event(&mut datagram) {
                if event != Event::Encrypted {
                    findings.note(&event, at);
                }
            }
        }
    }

    /// The flows that spoke DTLS.
    pub fn into_reports(self) -> impl Iterator<Item = StreamReport> {
        self.flows.into_iter().filter_map(|flow| {
            let dtls = flow.dtls?;
            Some(StreamReport {
                proto: "udp",
                client: dtls.client.into(),
                server: dtls.server.into(),
                first_frame: flow.first.frame,
                first_time: time_string(flow.first.unix_nanos),
                vlan: flow.vlans,
                class: "secure",
                kind: Some("dtls"),
                client_hellos: dtls.findings.client_hellos,
                server_hellos: dtls.findings.server_hellos,
                new_session_tickets: dtls.findings.tickets,
                resumed: dtls.followers[1].resumed(),
            })
        })
    }
}
