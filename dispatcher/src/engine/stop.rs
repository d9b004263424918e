//! The end of the process, as its connections hear of it.

use super::{Effects, Engine};
use crate::flow::{FlowId, Rest};
use crate::tcp::End;
use crate::tcp::connection::{Connection, State};
use crate::time::Time;

impl Engine {
    /// Ends every flow with resets to both sides and a record (`End::Shutdown`), and opens none any more. At most `budget` flows a call;
    /// true when all have been ended. They are kept for a moment ([`Engine::flows`]), in which [`Engine::handle`] and
    /// [`Engine::poll`] answer those who have not heard.
    pub fn shutdown(&mut self, budget: usize, now: Time, fx: &mut dyn Effects) -> bool {
        self.stopping = true;
        for _ in 0..budget {
            let Some(id) = self.flows.next_id(self.closing) else { return true };
            self.closing = FlowId(id.0 + 1);
            match self.flows.peek(id) {
                // Both its sides are done.
                Rest::Whole(Connection { state: State::TimeWait { .. }, .. }) => self.remove(id),
                Rest::Whole(Connection { state: State::Cut(_), .. }) => {}
                _ => self.cut(id, End::Shutdown, now, fx),
            }
        }
        false
    }
}
