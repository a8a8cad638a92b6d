//! What is said on a plane's local socket: which sandbox is at which place of this machine.
//!
//! `SOCK_STREAM`, one request at a time: a JSON object on one line, the descriptors that it speaks of attached to its
//! first byte (`SCM_RIGHTS`), then one line of answer. A plane that a supervisor started passes what it took on to the
//! *keeper* over a `SOCK_SEQPACKET` pair, one JSON object per packet, so that the next plane can begin with it.

mod client;
mod packet;

use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

pub use client::{Client, ClientError};
pub use packet::{LineReader, pair, receive, send};

/// Where a plane finds its keeper, and the only value: its standard input is the socket. A descriptor that is there
/// anyway needs no number to be trusted.
pub const KEEPER_VARIABLE: &str = "OUTGATE_KEEPER";
/// Value of [`KEEPER_VARIABLE`].
pub const KEEPER_ON_STDIN: &str = "stdin";

/// What a listening socket is for, and so how the destination of its connections is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ListenerKind {
    /// The kernel delivers connections to any address: the destination is the connection's local address.
    Transparent,
    /// Netfilter rewrote the destination: the kernel is asked for the one before.
    Redirect,
    /// The client names its destination itself, by `CONNECT` or an absolute target.
    Proxy,
    /// Name queries in datagrams.
    DnsUdp,
    /// Name queries with a length before each (RFC 1035 §4.2.2).
    DnsTcp,
}

/// One passed socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerSpec {
    /// What it is for.
    pub kind: ListenerKind,
}

/// A proxy password on its way. Nothing prints it; it is wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// Takes it.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Serialize for Password {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// What an orchestrator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "camelCase")]
pub enum Request {
    /// Puts a sandbox at places of this plane, instead of where it was before. Answered when every shard enforces its
    /// policy.
    Attach(Attach),
    /// Forgets every place of a sandbox and ends its connections.
    Detach(Detach),
    /// Tells what is attached.
    List(List),
    /// Serves listeners of many sandboxes, in place of those that had this name: REDIRECT and TPROXY on the host.
    Share(Share),
    /// Closes the listeners of this name; connections that are open go on.
    Unshare(Unshare),
}

/// Places of one sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Attach {
    /// The sandbox, as control knows it.
    pub sandbox: String,
    /// What each passed descriptor is, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<ListenerSpec>,
    /// Addresses from which only this sandbox can speak: whoever attaches vouches for the network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<IpNet>,
    /// Password for the explicit proxy; the sandbox's id is the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_password: Option<Password>,
    /// The plane makes a password and answers it, once.
    #[serde(default, skip_serializing_if = "is_false")]
    pub proxy: bool,
}

/// The sandbox that leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Detach {
    /// The sandbox.
    pub sandbox: String,
}

/// A page of what is attached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct List {
    /// The last sandbox of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// Listeners of many sandboxes, which are told apart by their [`Attach::sources`] (or by credentials, on a proxy).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Share {
    /// Any name, by which they are replaced and closed.
    pub name: String,
    /// What each passed descriptor is, in their order.
    pub listeners: Vec<ListenerSpec>,
}

/// Listeners of many sandboxes that are to be closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Unshare {
    /// Their name.
    pub name: String,
}

/// What the plane answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// Nothing was changed.
    Refused(Problem),
    /// It is so.
    Done(Done),
}

/// Why nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{detail}; {remedy} ({code})")]
pub struct Problem {
    /// False.
    pub ok: bool,
    /// Stable name of what is wrong.
    pub code: String,
    /// One sentence on it.
    pub detail: String,
    /// What to do.
    pub remedy: String,
}

impl Problem {
    /// Says what is wrong and what to do.
    pub fn new(code: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { ok: false, code: code.into(), detail: detail.into(), remedy: remedy.into() }
    }
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Done {
    /// True.
    pub ok: bool,
    /// A revision that every shard enforces and that holds the attached sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// The password that the plane made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_password: Option<Password>,
    /// Connections that a detachment ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<usize>,
    /// One page of what is attached, by identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached: Option<Vec<Attached>>,
    /// Listeners of many sandboxes, on the first page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<Vec<Share>>,
    /// There are more behind the last of the page.
    #[serde(default, skip_serializing_if = "is_false")]
    pub more: bool,
}

impl Default for Done {
    fn default() -> Self {
        Self {
            ok: true,
            revision: None,
            proxy_password: None,
            ended: None,
            attached: None,
            shared: None,
            more: false,
        }
    }
}

/// One sandbox of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attached {
    /// The sandbox.
    pub sandbox: String,
    /// Its listeners.
    pub listeners: Vec<ListenerSpec>,
    /// Its addresses.
    pub sources: Vec<IpNet>,
    /// It may speak to the explicit proxy.
    pub proxy: bool,
}

/// What goes between a plane and its keeper. First the keeper tells all that it holds, then [`Kept::Whole`]; from then
/// on the plane tells what changes. A plane whose keeper is gone ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "camelCase")]
pub enum Kept {
    /// These are a sandbox's places now, with the descriptors of its listeners.
    Attach(KeptPlaces),
    /// A sandbox has none any more.
    Detach(Detach),
    /// These are the listeners of many by this name now, with their descriptors.
    Share(Share),
    /// There are none of this name any more.
    Unshare(Unshare),
    /// That was all.
    Whole,
    /// The plane serves: nothing has kept it from starting.
    Serves,
}

/// Places of one sandbox, without its password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeptPlaces {
    /// The sandbox.
    pub sandbox: String,
    /// What each descriptor is.
    pub listeners: Vec<ListenerSpec>,
    /// Its addresses.
    pub sources: Vec<IpNet>,
    /// SHA-256 of its proxy password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_hash: Option<[u8; 32]>,
}

fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_the_json_that_orchestrators_write() {
        let text = r#"{"op":"attach","sandbox":"box","listeners":[{"kind":"transparent"},{"kind":"dns-udp"}],"sources":["10.0.0.2/32"],"proxy":true}"#;
        let read: Request = serde_json::from_str(text).unwrap();
        let Request::Attach(attach) = &read else { panic!("{read:?}") };
        assert_eq!(attach.listeners[1].kind, ListenerKind::DnsUdp);
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        for text in [r#"{"op":"detach","sandbox":"box"}"#, r#"{"op":"list"}"#, r#"{"op":"list","after":"a"}"#]
        {
            let read: Request = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), text);
        }
    }

    #[test]
    fn unknown_fields_kinds_and_operations_are_refused() {
        for text in [
            r#"{"op":"attach","sandbox":"b","listener":[]}"#,
            r#"{"op":"attach","sandbox":"b","listeners":[{"kind":"transparent","port":1}]}"#,
            r#"{"op":"attach","sandbox":"b","listeners":[{"kind":"raw"}]}"#,
            r#"{"op":"attach","sandbox":"b","sources":["10.0.0.2"]}"#,
            r#"{"op":"attach"}"#,
            r#"{"op":"detach","sandbox":"b","force":true}"#,
            r#"{"op":"list","limit":1}"#,
            r#"{"op":"share","name":"host","listeners":[],"sandbox":"b"}"#,
            r#"{"op":"dump"}"#,
            r#"{"sandbox":"b"}"#,
        ] {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn answers_tell_success_from_refusal() {
        let refused = Answer::Refused(Problem::new("c", "d", "r"));
        let done = Answer::Done(Done { revision: Some(7), ..Done::default() });
        for (answer, text) in [
            (refused, r#"{"ok":false,"code":"c","detail":"d","remedy":"r"}"#),
            (done, r#"{"ok":true,"revision":7}"#),
        ] {
            assert_eq!(serde_json::to_string(&answer).unwrap(), text);
            assert_eq!(serde_json::from_str::<Answer>(text).unwrap(), answer);
        }
    }

    #[test]
    fn a_password_is_not_printed() {
        let attach =
            Attach { proxy_password: Some(Password::new("long-and-secret".into())), ..Attach::default() };
        assert!(!format!("{attach:?}").contains("secret"));
    }
}
