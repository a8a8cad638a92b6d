//! Why a handler was not loaded or gave no actions, each reason by its own name.

use control_wire::envelope::EnvelopeError;
use handlers_sdk_abi::action::{ActionError, ActionFault};
use handlers_sdk_abi::answer::AnswerError;
use handlers_sdk_abi::view::ViewError;

/// Why an envelope was not loaded. What ran before runs on.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The bytes are not an envelope, or cut off.
    #[error("the handler's envelope is malformed")]
    Envelope(#[from] EnvelopeError),
    /// Not signed by this control.
    #[error("the handler's signature is not control's")]
    Signature,
    /// The artefact is not the one that was signed.
    #[error("the handler's code does not have the signed hash")]
    Hash,
    /// Made for something else than this plane.
    #[error("the handler was compiled for another {field}")]
    Key {
        /// The field of the key that differs.
        field: &'static str,
    },
    /// Wasmer refused the artefact.
    #[error("the handler's code cannot be loaded")]
    Deserialize(#[source] wasmer::DeserializeError),
    /// The module breaks the contract in spite of its signature.
    #[error("the handler's module {0}")]
    Contract(&'static str),
    /// A trial instance could not be made; code of another memory style ends here.
    #[error("the handler cannot be instantiated")]
    Instance(#[source] Box<HandlerError>),
}

/// Why a call gave no actions. Every one is final for the request; the instance is thrown away.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    /// It took more turns than a call may.
    #[error("the handler used up its fuel")]
    FuelExhausted,
    /// It ran longer than a call may.
    #[error("the handler exceeded its time")]
    TimeExceeded,
    /// Its calls nest too deep.
    #[error("the handler overflowed its stack")]
    StackOverflow,
    /// It asked for more memory than its cap and gave up.
    #[error("the handler exceeded its memory")]
    OutOfMemory,
    /// It did something that WebAssembly forbids.
    #[error("the handler trapped: {reason}")]
    Trap {
        /// Which trap.
        reason: String,
    },
    /// It panicked.
    #[error("the handler panicked: {message}")]
    Panic {
        /// Message and location as the guest gave them, cut at the contract's bound.
        message: String,
    },
    /// Its answer breaks the contract.
    #[error("the handler broke the contract")]
    Protocol(#[from] ProtocolError),
    /// It asked for more actions than one list may hold.
    #[error("the handler asked for too many actions")]
    TooManyActions,
    /// One of its actions is not allowed; none was applied.
    #[error("the handler asked for an action that is refused")]
    Action(#[source] ActionError),
    /// It waits for an operation, which this plane does not serve yet.
    #[error("the handler waits for an operation, which this plane does not serve")]
    Pending,
    /// What handlers remember of open exchanges fills its room; nothing of this one was remembered.
    #[error("what handlers remember of open exchanges fills the room of {whose}: {bytes_max} bytes")]
    TooMuchKept {
        /// Whose room is full.
        whose: &'static str,
        /// Its bound.
        bytes_max: usize,
    },
    /// It refused its parameters.
    #[error("the handler refused its parameters: {message}")]
    Params {
        /// The guest's words.
        message: String,
    },
    /// The request does not fit a view.
    #[error("the request does not fit the handler's view")]
    View(#[source] ViewError),
    /// No instance could be made.
    #[error("no instance of the handler could be made: {reason}")]
    Instantiate {
        /// What stood in the way.
        reason: String,
    },
}

impl From<ActionError> for HandlerError {
    /// Too many actions has a name of its own, because it is a bound and not a mistake in one entry.
    fn from(error: ActionError) -> Self {
        match error.fault {
            ActionFault::TooMany => Self::TooManyActions,
            _ => Self::Action(error),
        }
    }
}

/// How an answer breaks the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The number that it answered is none that it may.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// The list lies outside the guest's memory.
    #[error("its list of {len} bytes at {pointer} lies outside its memory")]
    ListBounds {
        /// Where the list would begin.
        pointer: u32,
        /// Its length.
        len: u32,
    },
    /// It refused space, or gave space outside its memory.
    #[error("it gave no space of {bytes} bytes for the host to write into")]
    Space {
        /// What was asked for.
        bytes: u32,
    },
}
