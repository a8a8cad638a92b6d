//! HTTP without I/O: heads, bodies, the one authority of a request, and the exchange.

pub mod authority;
mod between;
pub mod body;
pub mod edit;
pub mod exchange;
pub mod fault;
mod fields;
pub mod h1;
pub mod h2;
pub mod head;
pub mod host;
pub mod outgoing;
pub mod parse;
pub mod parts;
pub mod path;
mod query;
pub mod reader;
pub mod serve;
mod target;

pub use authority::{AuthorityError, ConnectionFacts, authority_of, authority_unread, connect_target};
pub use body::{BodyDecoder, BodyEncoder, BodyError, Piece, Trailers};
pub use edit::{EditError, FieldName, FieldValue};
pub use exchange::{AnyHead, BodyPiece, BodyReader, Driver, Exchange, Gate, Leg, Reply, ReplyPiece};
pub use fault::HeadError;
pub use head::{Field, Framing, Parsed, RequestHead, ResponseHead, TargetForm, Version, kept_method};
pub use host::{Authority, DnsName, Host, HostError, Scheme};
pub use outgoing::{OutgoingRequest, OutgoingResponse};
pub use parts::AnswerParts;
pub use path::PathForms;
pub use reader::{Found, HeadReader, WholeHead, parse_request, parse_response};
pub use serve::{About, Answer, OwnAnswer, ServeError, Served, serve};
