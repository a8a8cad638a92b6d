//! The encoder of action lists, used by guests.

use alloc::vec::Vec;

use super::{op, put_entry};
use crate::code::{BodyUse, Level};
use crate::operation::Operation;

/// Appends actions to a list. It writes what it is told; the host judges.
#[derive(Debug, Default)]
pub struct ActionWriter {
    bytes: Vec<u8>,
    len: usize,
}

impl ActionWriter {
    /// An empty list.
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), len: 0 }
    }

    /// The list so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The list, whole.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Number of actions.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Begins an empty list in space that another one had, unless this one has its own.
    pub fn reuse(&mut self, mut space: Vec<u8>) {
        if self.bytes.capacity() == 0 {
            space.clear();
            (self.bytes, self.len) = (space, 0);
        }
    }

    /// Forgets everything, keeps the space.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.len = 0;
    }

    /// Replace every field of a name.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        self.entry(op::SET, 0, name, &[value]);
    }

    /// Replace every field of a name by a prefix and a named secret.
    pub fn set_secret(&mut self, name: &[u8], prefix: &[u8], secret: &str) {
        self.entry(op::SET_SECRET, 0, name, &[prefix, b"\0", secret.as_bytes()]);
    }

    /// Remove every field of a name.
    pub fn remove(&mut self, name: &[u8]) {
        self.entry(op::REMOVE, 0, name, &[]);
    }

    /// Add a field.
    pub fn append(&mut self, name: &[u8], value: &[u8]) {
        self.entry(op::APPEND, 0, name, &[value]);
    }

    /// Replace path and query.
    pub fn path(&mut self, path: &str) {
        self.entry(op::PATH, 0, b"", &[path.as_bytes()]);
    }

    /// Replace the host: `host` or `host:port`.
    pub fn host(&mut self, authority: &str) {
        self.entry(op::HOST, 0, b"", &[authority.as_bytes()]);
    }

    /// Write a log line.
    pub fn log(&mut self, level: Level, text: &str) {
        self.entry(op::LOG, level.code(), b"", &[text.as_bytes()]);
    }

    /// Refuse; without a status it is the policy's.
    pub fn deny(&mut self, status: Option<u16>, reason: &str) {
        let status = status.map(u16::to_le_bytes);
        self.entry(op::DENY, 0, status.as_ref().map_or(&[], |status| &status[..]), &[reason.as_bytes()]);
    }

    /// Answer in the upstream's place.
    pub fn respond(&mut self, status: u16, body: &[u8]) {
        self.entry(op::RESPOND, 0, &status.to_le_bytes(), &[body]);
    }

    /// The handler failed.
    pub fn error(&mut self, message: &str) {
        self.entry(op::ERROR, 0, b"", &[message.as_bytes()]);
    }

    /// Ask for the body.
    pub fn body(&mut self, body: BodyUse) {
        self.entry(op::BODY, body as u8, b"", &[]);
    }

    /// Emit bytes in the place of a chunk.
    pub fn emit(&mut self, bytes: &[u8]) {
        self.entry(op::EMIT, 0, b"", &[bytes]);
    }

    /// Add to a counter.
    pub fn metric(&mut self, name: &str, value: i64) {
        self.entry(op::METRIC, 0, name.as_bytes(), &[&value.to_le_bytes()]);
    }

    /// Give a response another status.
    pub fn status(&mut self, status: u16) {
        self.entry(op::STATUS, 0, &status.to_le_bytes(), &[]);
    }

    /// Start an operation in a slot.
    pub fn start(&mut self, slot: u8, operation: &Operation<'_>) {
        operation.encode(slot, &mut self.bytes);
        self.len += 1;
    }

    fn entry(&mut self, op: u8, arg: u8, name: &[u8], value: &[&[u8]]) {
        put_entry(&mut self.bytes, op, arg, name, value);
        self.len += 1;
    }
}
