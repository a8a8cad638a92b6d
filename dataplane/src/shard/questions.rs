//! What control says about questions, on its way to the shards that asked them.

use std::rc::Rc;

use control_wire::question::Answer;

use super::Shards;
use crate::{
    approval::{Desk, Heard},
    ring::mailbox::Slot,
};

impl Shards {
    /// Hands an answer to the shard that asked. One to a question that is no longer open changes nothing.
    pub fn answer(&self, answer: Answer) {
        let home = Desk::shard_of(answer.id, self.handles.len());
        self.handles[home].heard.put(Heard::answer(answer), Heard::merge);
    }

    /// Tells every shard that the link is lost on which its questions were asked.
    pub fn link_lost(&self) {
        for handle in &self.handles {
            handle.heard.put(Heard::link_lost(), Heard::merge);
        }
    }
}

/// Gives a shard's desk what it is told, for as long as the shard serves.
pub(super) async fn listen(desk: Rc<Desk>, heard: Slot<Heard>) {
    loop {
        desk.hear(heard.take().await);
    }
}
