//! What the demo and the program in its sandbox say to each other: one JSON object per line over a Unix socket.

use std::net::SocketAddr;

use control_wire::attach::ListenerKind;
use serde::{Deserialize, Serialize};

/// The demo asks, one thing at a time.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "camelCase")]
pub enum Ask {
    /// Opens a network namespace for each room, and passes what listens in it.
    Open {
        /// Rooms.
        rooms: usize,
        /// The port, beside 80 and 443, whose connections are caught.
        port: u16,
    },
    /// From now on, requests take this road.
    Take(Road),
    /// Fetches the certificate of each room's authority from `outgate.internal`, and trusts it.
    Trust,
    /// Sends one request.
    Send(Wanted),
    /// Puts a text where the search must find it.
    Plant {
        /// The text.
        text: String,
    },
    /// Looks for texts in everything that this program can see.
    Search {
        /// The texts.
        needles: Vec<Masked>,
    },
    /// Begins a stream in each room.
    Stream {
        /// Whence.
        host: String,
        /// Its port.
        port: u16,
    },
    /// Counts what the kernel has handed over so far.
    Mark,
    /// Reads on until all streams have ended or the time is over, and counts what came after the mark.
    Settle {
        /// The time.
        millis: u64,
    },
}

/// How requests leave a room.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Road {
    /// As if there were no gateway: by the names and addresses that the program uses anyway.
    Captured,
    /// Through a proxy that knows rooms by their passwords.
    Proxy {
        /// Where it listens.
        address: SocketAddr,
        /// User and password of each room.
        credentials: Vec<(String, String)>,
    },
}

/// A request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Wanted {
    /// Method.
    pub method: String,
    /// `http` or `https`.
    pub tls: bool,
    /// Host.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path.
    pub path: String,
    /// Body.
    pub body: String,
}

/// A text that cannot be found in the memory of who looks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Masked {
    /// Random bytes.
    pub pad: Vec<u8>,
    /// The text's bytes, each xor that of the pad.
    pub text: Vec<u8>,
}

/// What the sandbox answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "camelCase")]
pub enum Answer {
    /// First of all: whether it stands apart from the machine.
    Apart(Apart),
    /// One room's listeners, in the order of the descriptors that come with this line.
    Room {
        /// What each is for.
        kinds: Vec<ListenerKind>,
    },
    /// Done, with nothing to say.
    Done,
    /// What a request got.
    Got(Got),
    /// What a search found.
    Found(Found),
    /// What streams have got so far.
    Streams(Streams),
    /// It could not be done.
    Failed {
        /// Why.
        why: String,
    },
}

/// Whether the kernel gave the sandbox namespaces of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Apart {
    /// Microseconds from the first call to the last.
    pub micros: u64,
    /// Why it did not.
    pub refused: Option<String>,
}

/// An answer to a request.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Got {
    /// Status.
    pub status: u16,
    /// Body.
    pub body: String,
    /// Microseconds of name, connection and handshake, where a connection was made.
    pub opened_micros: Option<u64>,
    /// Microseconds from the request's first byte to the answer's last.
    pub micros: u64,
}

/// How often each text was found, by the kind of place.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    /// Kinds of places.
    pub places: Vec<Place>,
    /// Microseconds.
    pub micros: u64,
}

/// One kind of place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its name, for people.
    pub name: String,
    /// Places of this kind.
    pub count: usize,
    /// Bytes in them.
    pub bytes: u64,
    /// How often each text is there.
    pub hits: Vec<usize>,
}

/// Streams, taken together.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Streams {
    /// Streams.
    pub count: usize,
    /// Bytes that the kernel had handed over at the mark, or now where there was none.
    pub handed: u64,
    /// Bytes that came after the mark.
    pub after: u64,
    /// Streams that were reset.
    pub reset: usize,
    /// When the origin wrote the newest line that came, in nanoseconds of the monotonic clock.
    pub newest_stamp: u64,
}
