//! The contract between the handler host and a guest: exports, events, the request view, actions.
//!
//! A guest is a WebAssembly module. The host writes one event into its memory, makes one call, and reads back one list
//! of actions, which it validates whole before it applies any. Integers are little-endian, pointers and lengths are
//! `u32` offsets, and nothing inside a list is aligned.
//!
//! The contract only grows: new events, header ids, operations and flags may be appended. A host refuses an operation
//! it does not know, a guest answers [`Answer::NOT_HANDLED`] to an event it does not know. A change that breaks either
//! side gets new export names.
//!
//! `no_std`, so that a guest without the standard library can use it; the feature `manifest` adds JSON and `std`.

#![cfg_attr(not(feature = "manifest"), no_std)]

extern crate alloc;

pub mod limits;
pub mod code;
mod bytes;
pub mod field;
pub mod names;
pub mod answer;
pub mod event;
pub mod view;
pub mod action;
pub mod operation;
pub mod manifest;

pub use action::{Action, ActionError, ActionFault, ActionList, ActionWriter, Context as ActionContext};
pub use answer::{Answer, AnswerError};
pub use event::{Chunk, Completion, Event, EventError, EventKind};
pub use field::Known;
pub use operation::{Operation, Slots};
pub use view::{Field, Label, MethodId, RequestView, View, ViewError};

/// Version of this contract, in the manifest and in every view.
pub const ABI_VERSION: u16 = 1;
