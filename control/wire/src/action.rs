//! The actions of a policy's rules: what an operator writes, and whether it can do what it says.

mod fields;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::limits::{NAME_BYTES_MAX, PROTOCOL_BYTES_MAX, REASON_BYTES_MAX};
use crate::pattern::{HostKind, HostPattern};
use crate::validate::name;

/// Fields that belong to framing, to one hop or to the decided authority, beside those of proxies. What the contract of
/// handlers reserves is among them: the plane, which knows both, tests that.
const FIELDS_OF_THE_GATEWAY: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// One action of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "fields::ActionFields")]
pub enum RuleAction {
    /// Refuse, with this reason.
    Deny {
        /// Told to the sandbox.
        reason: String,
    },
    /// Set a header from a secret, every field of that name replaced.
    Header {
        /// Field name.
        name: String,
        /// Name of the secret.
        secret: String,
        /// Put before the value.
        #[serde(skip_serializing_if = "String::is_empty")]
        prefix: String,
    },
    /// `Authorization: Bearer` from a secret.
    Bearer {
        /// Name of the secret.
        secret: String,
    },
    /// `Authorization: Basic` from a secret (RFC 7617).
    Basic {
        /// Name of the secret. Its value is `user:password`, or the password alone where the user is named here.
        secret: String,
        /// The user, where the secret does not hold it.
        #[serde(skip_serializing_if = "Option::is_none")]
        user: Option<String>,
    },
    /// Set a parameter of the query from a secret, every parameter of that name replaced.
    Query {
        /// Name of the parameter, decoded.
        name: String,
        /// Name of the secret.
        secret: String,
    },
    /// Show the host a client certificate in the TLS handshake. Of several rules the last that matches counts.
    ClientCertificate {
        /// Name of the secret. Its value is a certificate chain and its key in PEM form.
        secret: String,
    },
    /// Relay TLS to the host unread, judged by the name that it asks for.
    Passthrough {},
    /// How connections to the host are made. Of several rules the last that may match counts.
    Upstream(UpstreamWay),
    /// Let requests change to these protocols (RFC 9110 §7.8), whose bytes are then relayed both ways: each a name, or a
    /// name and a version. A WebSocket needs no such rule.
    Upgrade(Vec<String>),
}

/// How connections to a host are made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    default,
    expecting = "{\"via\": \"http://host:port\" or \"socks5://host:port\", \"sourceAddress\": address}, one or both; \
                 with \"via\" optionally \"secret\" and \"resolve\""
)]
pub struct UpstreamWay {
    /// The proxy through which they are made, as [`Proxy::parse`] reads it. Where it fails, they fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// Name of the secret that holds the proxy's `user:password`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Who finds out the host's address.
    #[serde(skip_serializing_if = "Resolves::is_plane")]
    pub resolve: Resolves,
    /// The address of the plane's machine from which they are made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_address: Option<IpAddr>,
}

/// Who finds out the address of a host behind a proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "\"plane\" or \"proxy\"")]
pub enum Resolves {
    /// The plane, which checks it as always and gives it to the proxy.
    #[default]
    Plane,
    /// The proxy, which is given the name. Nobody checks the address then.
    Proxy,
}

impl Resolves {
    fn is_plane(&self) -> bool {
        *self == Self::Plane
    }
}

/// A proxy towards upstreams, as `via` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// What it speaks.
    pub kind: ProxyKind,
    /// Its host: a name in its normal form or an address.
    pub host: HostKind,
    /// Its port.
    pub port: u16,
}

/// What a proxy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyKind {
    /// `CONNECT` (RFC 9110 §9.3.6).
    Http,
    /// SOCKS 5 (RFC 1928).
    Socks5,
}

impl Proxy {
    /// Reads `http://host:port` or `socks5://host:port`.
    ///
    /// # Errors
    /// What is wrong, and the fix.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| {
            format!("`{}` has no scheme; write http://host:port or socks5://host:port", text.escape_debug())
        })?;
        if rest.contains('@') {
            return Err("holds credentials, which whoever reads the policy would see; write `user:password` into a secret \
                        whose hosts name the proxy, and name it in `secret`"
                .into());
        }
        let kind = match scheme {
            "http" => ProxyKind::Http,
            "socks5" => ProxyKind::Socks5,
            "socks5h" => {
                return Err("is socks5h; write socks5, and \"resolve\": \"proxy\" where the proxy shall resolve names".into());
            }
            other => {
                return Err(format!(
                    "speaks `{}` to the proxy; write http:// or socks5://",
                    other.escape_debug()
                ));
            }
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let pattern = HostPattern::parse(rest).map_err(|error| error.to_string())?;
        let port = pattern.port().ok_or("names no port; write it behind the host, like :3128")?;
        match pattern.kind() {
            host @ (HostKind::Name(_) | HostKind::Address(_)) => Ok(Self { kind, host: host.clone(), port }),
            _ => Err(format!("`{}` is a pattern; name one proxy", rest.escape_debug())),
        }
    }
}

impl UpstreamWay {
    fn holds(&self) -> Result<(), String> {
        let alone = |what: &str| {
            Err(format!("has `{what}` without `via`, whose it would be; name the proxy in `via`"))
        };
        match &self.via {
            None if self.secret.is_some() => return alone("secret"),
            None if self.resolve == Resolves::Proxy => return alone("resolve"),
            None if self.source_address.is_none() => {
                return Err("says nothing; name `via` or `sourceAddress`".into());
            }
            None => {}
            Some(via) => {
                Proxy::parse(via).map_err(|problem| format!("has a `via` that {problem}"))?;
            }
        }
        if self.source_address.is_some_and(|address| address.is_unspecified() || address.is_multicast()) {
            return Err(
                "has a `sourceAddress` from which nothing can come; write an address of the machine".into()
            );
        }
        self.secret.as_deref().map_or(Ok(()), name)
    }
}

impl RuleAction {
    /// Name of the secret that it puts on requests.
    pub fn secret(&self) -> Option<&str> {
        match self {
            Self::Deny { .. } | Self::Passthrough {} | Self::Upgrade(_) => None,
            Self::Upstream(way) => way.secret.as_deref(),
            Self::Header { secret, .. }
            | Self::Bearer { secret }
            | Self::Basic { secret, .. }
            | Self::Query { secret, .. }
            | Self::ClientCertificate { secret } => Some(secret),
        }
    }
}

/// Protocols that a request may change to.
fn protocols_hold(protocols: &[String]) -> Result<(), String> {
    if protocols.is_empty() {
        return Err("names no protocol; write for example `upgrade = [\"tcp\", \"SPDY/3.1\"]`".into());
    }
    for protocol in protocols {
        let (name, version) = protocol.split_once('/').unwrap_or((protocol, "0"));
        if !is_token(name) || !is_token(version) || protocol.len() > PROTOCOL_BYTES_MAX {
            let shown = protocol.escape_debug();
            return Err(format!(
                "has `{shown}`, which is no protocol; write a name, or a name and a version"
            ));
        }
        if protocol.eq_ignore_ascii_case("websocket") {
            return Err("names `websocket`, which needs no rule; remove it".into());
        }
        if name.eq_ignore_ascii_case("h2c")
            || name.eq_ignore_ascii_case("tls")
            || name.eq_ignore_ascii_case("http")
        {
            return Err(format!("names `{protocol}`, behind which requests would pass unseen; remove it"));
        }
    }
    Ok(())
}

impl RuleAction {
    /// Whether it can do what it says.
    ///
    /// # Errors
    /// What is wrong, and the fix.
    pub(crate) fn holds(&self) -> Result<(), String> {
        match self {
            Self::Deny { reason } if reason.len() > REASON_BYTES_MAX => {
                Err(format!("has a reason of {} bytes; at most {REASON_BYTES_MAX} are taken", reason.len()))
            }
            Self::Deny { .. } => Ok(()),
            Self::Bearer { secret } | Self::ClientCertificate { secret } => self::name(secret),
            Self::Passthrough {} => Ok(()),
            Self::Upstream(way) => way.holds(),
            Self::Upgrade(protocols) => protocols_hold(protocols),
            Self::Basic { secret, user } => {
                user.as_deref().map_or(Ok(()), user_holds)?;
                self::name(secret)
            }
            Self::Query { name, secret } => {
                self::name(name).map_err(|problem| format!("names a parameter that {problem}"))?;
                self::name(secret)
            }
            Self::Header { name, secret, prefix } => {
                if !is_token(name) {
                    return Err(format!("has `{}`, which is no field name", name.escape_debug()));
                }
                if is_of_the_gateway(name) {
                    return Err(format!("sets `{name}`, which the gateway alone writes; name another field"));
                }
                if !prefix.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
                    return Err("has a prefix with other than printable ASCII characters".into());
                }
                self::name(secret)
            }
        }
    }
}

/// Whether no rule may set a field. `_` counts as `-`: many servers fold the two.
pub fn is_of_the_gateway(name: &str) -> bool {
    let plain = name.to_ascii_lowercase().replace('_', "-");
    FIELDS_OF_THE_GATEWAY.contains(&plain.as_str()) || plain.starts_with("proxy-")
}

/// RFC 7617 §2. Servers exist that want none.
fn user_holds(user: &str) -> Result<(), String> {
    if user.contains(':') {
        return Err("has a user with a `:`, where the password would begin; write the user alone".into());
    }
    if user.len() > NAME_BYTES_MAX || user.chars().any(char::is_control) {
        return Err(format!("has a user that is no plain text of at most {NAME_BYTES_MAX} bytes"));
    }
    Ok(())
}

/// RFC 9110 §5.6.2.
pub(crate) fn is_token(text: &str) -> bool {
    let special = b"!#$%&'*+-.^_`|~";
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || special.contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_read_from_its_address_alone() {
        let http = Proxy::parse("http://Proxy.Example:3128/").unwrap();
        assert_eq!((http.kind, http.port), (ProxyKind::Http, 3128));
        assert_eq!(http.host, HostKind::Name("proxy.example".into()));
        let socks = Proxy::parse("socks5://[fd00::1]:1080").unwrap();
        assert_eq!(
            (socks.kind, socks.host),
            (ProxyKind::Socks5, HostKind::Address("fd00::1".parse().unwrap()))
        );
        for (text, fix) in [
            ("proxy:3128", "http://host:port"),
            ("http://user:word@proxy:3128", "into a secret"),
            ("https://proxy:3128", "http:// or socks5://"),
            ("socks5h://proxy:1080", "\"resolve\": \"proxy\""),
            ("http://proxy", "port"),
            ("http://*.proxy:3128", "one proxy"),
            ("http://10.0.0.0/8", "port"),
            ("http://", ""),
        ] {
            let said = Proxy::parse(text).unwrap_err();
            assert!(said.contains(fix) && !said.contains("word@"), "{text}: {said}");
        }
    }
}
