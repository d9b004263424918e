//! Whose hello buffer is taken back when all are in use: otherwise whoever opens as many connections as there are buffers, and sends one
//! byte on each, locks out all others.

use crate::flow::FlowId;

/// Buffers looked at for one segment.
const LOOKS: usize = 64;

/// By buffer: the flow that took it for a hello, if it still has it.
#[derive(Debug)]
pub struct Eviction {
    takers: Box<[FlowId]>,
    /// The buffer to be looked at next.
    hand: usize,
}

impl Eviction {
    /// For so many buffers.
    pub fn new(buffers: usize) -> Eviction {
        Eviction { takers: vec![FlowId(0); buffers].into_boxed_slice(), hand: 0 }
    }

    /// Memory of it, bytes.
    pub const fn bytes_for(buffers: usize) -> usize {
        buffers * size_of::<FlowId>()
    }

    /// A flow has taken this buffer.
    pub fn taken(&mut self, buffer: usize, by: FlowId) {
        self.takers[buffer] = by;
    }

    /// The next flow of which `keeps` says that it has kept this buffer for too long, among some of the buffers: all of them in turn, call by
    /// call.
    pub fn next(&mut self, keeps: impl Fn(FlowId, usize) -> bool) -> Option<FlowId> {
        for _ in 0..LOOKS.min(self.takers.len()) {
            let (buffer, flow) = (self.hand, self.takers[self.hand]);
            self.hand = (buffer + 1) % self.takers.len();
            if keeps(flow, buffer) {
                return Some(flow);
            }
        }
        None
    }
}
