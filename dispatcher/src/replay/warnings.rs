//! What a replay warns of: connections that the dispatcher would refuse, those that it could not follow, and the rule.

use super::reenact::conversation::{CLIENT, Conversation};
use super::reenact::wire::Ended;
use crate::engine::{Class, DropReason, End};
use crate::journal::ConnectionLine;
use core::time::Duration;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;

/// Connections named of each sort; the others are counted.
pub const EXAMPLES: usize = 20;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $word:literal,)*) => {
        /// Why nothing, or not all, is known of a connection's session: it is balanced, and nothing is learned from it.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum NotFollowed {
            $($(#[doc = $doc])+ $name,)*
        }

        impl NotFollowed {
            /// All, in the order of reports.
            pub const ALL: [NotFollowed; [$($word),*].len()] = [$(NotFollowed::$name),*];

            /// The word of the JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $(NotFollowed::$name => $word,)* }
            }

            /// In a sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(NotFollowed::$name => concat!($($doc),+).trim_ascii(),)* }
            }
        }
    };
}

reasons! {
    /// It began before the capture did.
    BeganLate = "began-late",
    /// Bytes of its hello are not in the capture.
    HelloHole = "hello-hole",
    /// Its hello is not whole, or cannot be read.
    HelloUnread = "hello-unread",
    /// Its hello is longer than the dispatcher reads.
    HelloLong = "hello-long",
    /// Its hello came after --hello-timeout: learned from, but a server was chosen without it.
    HelloLate = "hello-late",
    /// It went to a server beyond the first 1024.
    Beyond = "too-many-servers",
    /// Bytes of the server's answer are not in the capture.
    AnswerHole = "answer-hole",
    /// No watch was free for the server's answer, or too much of it was out of order.
    Unwatched = "unwatched",
}

/// A rule by which a connection was refused: its name, and what it means.
pub type Rule = (&'static str, &'static str);

/// By which rule the engine refused, or gave up, a connection whose ends would have gone on.
pub fn refusal(ended: &Ended, conversation: &Conversation<'_>, intact: bool) -> Option<Rule> {
    let by = |why: DropReason| (why.as_str(), why.meaning());
    let rule = conversation.lost_by.map(by);
    match ended.end {
        _ if intact => None,
        End::QueueTimeout => Some(by(DropReason::QueueTimeout)),
        End::QueueFull => Some(by(DropReason::QueueFull)),
        End::NoBackend | End::PortInUse | End::NoBuffer => Some(rule.unwrap_or(by(DropReason::NoBackend))),
        End::ProxyHeader => Some(by(DropReason::ProxyHeader)),
        End::Idle => Some(("idle", "No frames for --flow-idle-timeout, and no answer when asked.")),
        End::BackendLost => Some(("backend-lost", "The backend acknowledged nothing of what was ours to deliver.")),
        End::Fin
        | End::ClientReset
        | End::BackendReset
        | End::QueueAbandoned
        | End::Replaced
        | End::BackendRemoved
        | End::Shutdown => rule,
    }
}

/// Why the session of a connection that was re-enacted could not be followed.
pub fn not_followed(ended: &Ended, conversation: &Conversation<'_>, hello_patience: Duration) -> Option<NotFollowed> {
    if conversation.unwatched {
        return Some(NotFollowed::Unwatched);
    }
    let script = &conversation.recorded.scripts[CLIENT];
    let head: Vec<u8> = script.range(0, script.len.min(64)).flatten().copied().collect();
    // Fewer bytes do not tell.
    if head.len() < 6 || matches!(ssl_parse::client_hello(&head, &mut []), ssl_parse::Outcome::NotTls) {
        return None;
    }
    let said = script.steps.iter().find(|s| s.len > 0).map_or(conversation.recorded.begun, |s| s.at);
    let late = said.since(conversation.recorded.begun) >= hello_patience;
    // A late one is read all the same, but leads nowhere. (Within a tick of the time-out it may still have led.)
    let read = ended.class == Class::Secure;
    match late && ended.decided.is_none() {
        true => Some(NotFollowed::HelloLate),
        false => (!read).then_some(NotFollowed::HelloUnread),
    }
}

/// A connection's line, and what there is to warn of.
#[derive(Serialize)]
pub struct Line<'a> {
    /// As in every connection's line.
    #[serde(flatten)]
    pub line: ConnectionLine<'a>,
    /// The rule by which it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<&'static str>,
    /// Why it was not followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_followed: Option<&'static str>,
}

impl Line<'_> {
    /// Writes the object and a line feed.
    pub fn write(&self, mut out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer(&mut out, self)?;
        out.write_all(b"\n")
    }
}

/// Counts by name, without zeros.
pub fn counted(counts: &[u64; NotFollowed::ALL.len()]) -> BTreeMap<&'static str, u64> {
    NotFollowed::ALL.iter().map(|why| why.as_str()).zip(*counts).filter(|(_, n)| *n > 0).collect()
}

/// What is said of connections that were not followed.
pub const UNFOLLOWED: &str = "not followed, or not to their end: balanced, and nothing is learned from them";

/// Names connections that were not followed, for people.
pub fn write_not_followed(
    out: &mut dyn Write,
    counts: &[u64; NotFollowed::ALL.len()],
    examples: &[(SocketAddr, SocketAddr, NotFollowed)],
) -> io::Result<()> {
    let rules = NotFollowed::ALL.iter().zip(counts).map(|(why, n)| ((why.as_str(), why.meaning()), *n));
    let examples: Vec<_> = examples.iter().map(|(client, server, why)| (*client, *server, why.as_str())).collect();
    write_warning(out, UNFOLLOWED, rules, &examples)
}

/// A warning: how many connections, by which rules, and the first of them.
pub fn write_warning(
    out: &mut dyn Write,
    what: &str,
    rules: impl Iterator<Item = (Rule, u64)>,
    examples: &[(SocketAddr, SocketAddr, &'static str)],
) -> io::Result<()> {
    let rules: Vec<_> = rules.filter(|(_, n)| *n > 0).collect();
    let all: u64 = rules.iter().map(|(_, n)| n).sum();
    if all == 0 {
        return Ok(());
    }
    writeln!(out, "Connections {what}: {all}")?;
    for ((name, meaning), n) in rules {
        writeln!(out, "  {n} {name}: {meaning}")?;
    }
    for (client, server, name) in examples {
        writeln!(out, "    {client} -> {server} {name}")?;
    }
    if all > examples.len() as u64 {
        writeln!(out, "    and {} more; --json names all", all - examples.len() as u64)?;
    }
    Ok(())
}
