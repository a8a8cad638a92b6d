//! Finds in an answer the credentials that its request was given, and masks them.
//!
//! Three parts: [`Finder`] knows one credential in the forms in which servers repeat what they were told, [`Searcher`]
//! looks for some of them in a stream, [`Decoding`] undoes what hides them from a search. Only `inject` makes finders,
//! since only it reads values.
//!
//! A mask is as long as what it hides, so lengths, offsets and framing stay true; that it tells the length is the price.
//! What is found: the bytes themselves, with any of them percent-encoded (RFC 3986 §2.1) or escaped as in JSON
//! (RFC 8259 §7), a space as `+`, base64 in both alphabets wherever it begins inside a longer text, hexadecimal digits.
//! What is not: other forms, base64 broken into lines, and up to four bits beside each end of what base64 joined with
//! its neighbours. A server that wants to tell a credential always can; this is for those that repeat it.

mod answer;
mod codings;
mod decode;
mod deflate;
mod escape;
mod finder;
mod search;
mod zstd;

pub use answer::{Refused, Search, prepare};
pub use codings::Coding;
pub use decode::{CodingError, Decoding};
pub use finder::{Finder, TooShort};
pub use search::{Found, Searcher};
