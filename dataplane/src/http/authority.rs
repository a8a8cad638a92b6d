//! Decides the one authority of a request from everything that names one, or refuses where they disagree.

use std::{net::SocketAddr, ops::Deref};

use super::{
    head::{RequestHead, TargetForm},
    host::{Authority, Host, HostError, Scheme, parse_host_port},
};

/// What the connection on which a request arrived says about whom it is for.
#[derive(Debug, Clone)]
pub struct ConnectionFacts {
    /// TLS was terminated on it or not.
    pub scheme: Scheme,
    /// What CONNECT (or SOCKS) named before.
    pub connect_target: Option<(Host, u16)>,
    /// The server name of the ClientHello.
    pub sni: Option<Host>,
    /// The address that a captured connection was for.
    pub destination: Option<SocketAddr>,
    /// The name for which the plane's own name server made up that address.
    pub destination_name: Option<Host>,
    /// The client knows that it speaks to a proxy: requests without CONNECT come in absolute form.
    pub explicit_proxy: bool,
}

impl ConnectionFacts {
    /// Where the connection was going, as far as it has said so before any request.
    pub fn whither(&self) -> Option<(Host, u16)> {
        let captured = || {
            let destination = self.destination?;
            let name = self.sni.as_ref().or(self.destination_name.as_ref());
            Some((name.cloned().unwrap_or_else(|| Host::from(destination.ip())), destination.port()))
        };
        self.connect_target.clone().or_else(captured)
    }

    /// Whether it was asked for by a name: TLS to a bare address proves none.
    pub fn names_a_host(&self) -> bool {
        self.sni.is_some() || self.connect_target.is_some() || self.destination_name.is_some()
    }
}

/// Why a request has no authority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// 400: what stands in the target or in `Host` is no host.
    #[error("the request names no valid host")]
    Host(#[source] HostError),
    /// 400: absolute or CONNECT target and `Host` disagree.
    #[error("the request target and the Host field name different hosts")]
    TargetAgainstHost,
    /// 400: the scheme of the target is not that of the connection.
    #[error("the request target says {target}, the connection is {connection}")]
    Scheme {
        /// Of the target.
        target: Scheme,
        /// Of the connection.
        connection: Scheme,
    },
    /// 400: to a proxy only the absolute form says for whom the request is.
    #[error("a request to a proxy needs the absolute form or CONNECT")]
    FormForProxy,
    /// 400: nothing names a host.
    #[error("neither request nor connection names a host")]
    Nothing,
    /// 421: the request names another host than the connection.
    #[error("the request is for {request}, the connection for {connection}")]
    Misdirected {
        /// Named by the request.
        request: Host,
        /// Named by CONNECT, server name or destination.
        connection: Host,
    },
    /// 421: the request names another port than the connection.
    #[error("the request is for port {request}, the connection for port {connection}")]
    MisdirectedPort {
        /// Named by the request or implied by its scheme.
        request: u16,
        /// Of CONNECT or the destination.
        connection: u16,
    },
}

impl From<HostError> for AuthorityError {
    fn from(error: HostError) -> Self {
        AuthorityError::Host(error)
    }
}

/// Host and port for which a CONNECT asks; its port is written always (RFC 9110 §9.3.6).
///
/// # Errors
/// [`AuthorityError`] when the target is no host and port, or `Host` disagrees with it.
pub fn connect_target<B: Deref<Target = [u8]>>(head: &RequestHead<B>) -> Result<(Host, u16), AuthorityError> {
    let target = head.target_authority().ok_or(AuthorityError::Nothing)?;
    let (host, port) = parse_host_port(target)?;
    let port = port.ok_or(HostError::Port)?;
    if let Some(field) = head.host() {
        let (named, named_port) = parse_host_port(field)?;
        // Clients leave the port away although RFC 9112 §3.2 asks for it; another port is a contradiction.
        if named != host || named_port.is_some_and(|named| named != port) {
            return Err(AuthorityError::TargetAgainstHost);
        }
    }
    Ok((host, port))
}

/// The one authority of a request that is no CONNECT.
///
/// CONNECT target, server name, destination, absolute target, `Host`, scheme and port must agree as far as they are
/// there (`Host` of the decided authority is what goes to the upstream).
///
/// # Errors
/// [`AuthorityError`]: 421 where the request names another host or port than the connection, else 400.
pub fn authority_of<B: Deref<Target = [u8]>>(
    head: &RequestHead<B>,
    facts: &ConnectionFacts,
) -> Result<Authority, AuthorityError> {
    let connection_host = connection_host(facts)?;
    let connection_port = facts
        .connect_target
        .as_ref()
        .map(|(_, port)| *port)
        .or(facts.destination.map(|address| address.port()));
    if facts.explicit_proxy && facts.connect_target.is_none() && head.form() != TargetForm::Absolute {
        return Err(AuthorityError::FormForProxy);
    }
    let Some((host, port)) = named(head, facts.scheme, connection_host.as_ref())? else {
        // HTTP/1.0 without `Host`: only the connection says whom it is for.
        let host = connection_host.or(facts.destination.map(|address| Host::from(address.ip())));
        let port = connection_port.unwrap_or(facts.scheme.default_port());
        return Ok(Authority { scheme: facts.scheme, host: host.ok_or(AuthorityError::Nothing)?, port });
    };
    if let Some(connection) = connection_host
        && connection != host
    {
        return Err(AuthorityError::Misdirected { request: host, connection });
    }
    // An address as host is the one that was dialled; a name is resolved by the plane, wherever the client dialled.
    if let (Host::Ip(_), Some(destination), None) = (&host, facts.destination, &facts.connect_target) {
        let connection = Host::from(destination.ip());
        if connection != host {
            return Err(AuthorityError::Misdirected { request: host, connection });
        }
    }
    match connection_port {
        Some(connection) if connection != port => {
            Err(AuthorityError::MisdirectedPort { request: port, connection })
        }
        _ => Ok(Authority { scheme: facts.scheme, host, port }),
    }
}

/// Host and port of TLS that is relayed unread: only the connection says whom it is for.
///
/// # Errors
/// [`AuthorityError`]: 421 where what it says disagrees, 400 where it says nothing.
pub fn authority_unread(facts: &ConnectionFacts) -> Result<Authority, AuthorityError> {
    let named = connection_host(facts)?;
    let (host, port) = facts.whither().ok_or(AuthorityError::Nothing)?;
    Ok(Authority { scheme: Scheme::Https, host: named.unwrap_or(host), port })
}

/// What the connection names. CONNECT, server name and synthetic address must agree before a request is looked at.
fn connection_host(facts: &ConnectionFacts) -> Result<Option<Host>, AuthorityError> {
    let connect = facts.connect_target.as_ref().map(|(host, _)| host);
    let mut decided: Option<&Host> = None;
    for named in [connect, facts.destination_name.as_ref(), facts.sni.as_ref()].into_iter().flatten() {
        match decided {
            Some(before) if before != named => {
                return Err(AuthorityError::Misdirected {
                    request: named.clone(),
                    connection: before.clone(),
                });
            }
            _ => decided = Some(named),
        }
    }
    Ok(decided.cloned())
}

/// What the request names, the port filled in from the scheme.
fn named<B: Deref<Target = [u8]>>(
    head: &RequestHead<B>,
    scheme: Scheme,
    connection: Option<&Host>,
) -> Result<Option<(Host, u16)>, AuthorityError> {
    let read = |bytes: &[u8]| -> Result<(Host, u16), HostError> {
        // A name in its normal form reads as itself, so the one that the connection names is not read again.
        if let Some(known) =
            connection.filter(|host| host.name().is_some_and(|name| name.as_bytes() == bytes))
        {
            return Ok((known.clone(), scheme.default_port()));
        }
        parse_host_port(bytes).map(|(host, port)| (host, port.unwrap_or(scheme.default_port())))
    };
    let field = head.host().map(read).transpose()?;
    if head.form() != TargetForm::Absolute {
        return Ok(field);
    }
    match head.target_scheme() {
        Some(target) if target != scheme => {
            return Err(AuthorityError::Scheme { target, connection: scheme });
        }
        _ => {}
    }
    let target = head.target_authority().map(read).transpose()?;
    if field.is_some() && field != target {
        return Err(AuthorityError::TargetAgainstHost);
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Parsed, parse_request};

    fn facts(scheme: Scheme) -> ConnectionFacts {
        ConnectionFacts {
            scheme,
            connect_target: None,
            sni: None,
            destination: None,
            destination_name: None,
            explicit_proxy: false,
        }
    }

    fn host(text: &str) -> Host {
        Host::parse(text).expect("host")
    }

    fn decide(target: &str, field: &str, facts: &ConnectionFacts) -> Result<String, AuthorityError> {
        let text = format!("GET {target} HTTP/1.1\r\nHost: {field}\r\n\r\n");
        let Ok(Parsed::Complete { head, .. }) = parse_request(text.as_bytes()) else { panic!("{text}") };
        authority_of(&head, facts).map(|authority| format!("{}://{authority}", authority.scheme))
    }

    #[test]
    fn agreeing_names_make_one_authority() {
        let tls = ConnectionFacts {
            connect_target: Some((host("a.example"), 443)),
            sni: Some(host("a.example")),
            ..facts(Scheme::Https)
        };
        for field in ["a.example", "A.EXAMPLE.", "a.example:443"] {
            assert_eq!(decide("/", field, &tls), Ok("https://a.example".into()), "{field}");
        }
        let proxy = ConnectionFacts { explicit_proxy: true, ..facts(Scheme::Http) };
        assert_eq!(
            decide("http://a.example:8080/", "a.example:8080", &proxy),
            Ok("http://a.example:8080".into())
        );
        assert_eq!(decide("http://0x7f.1/", "127.0.0.1", &proxy), Ok("http://127.0.0.1".into()));
    }

    #[test]
    fn another_host_or_port_than_the_connections_is_misdirected() {
        let tls = ConnectionFacts {
            sni: Some(host("a.example")),
            destination: Some("192.0.2.1:443".parse().expect("address")),
            ..facts(Scheme::Https)
        };
        assert!(matches!(decide("/", "b.example", &tls), Err(AuthorityError::Misdirected { .. })));
        assert!(matches!(decide("/", "192.0.2.1", &tls), Err(AuthorityError::Misdirected { .. })));
        assert!(matches!(decide("/", "a.example:444", &tls), Err(AuthorityError::MisdirectedPort { .. })));
        let disagreeing = ConnectionFacts { connect_target: Some((host("b.example"), 443)), ..tls };
        assert!(matches!(decide("/", "a.example", &disagreeing), Err(AuthorityError::Misdirected { .. })));
        assert!(matches!(decide("/", "b.example", &disagreeing), Err(AuthorityError::Misdirected { .. })));
    }

    #[test]
    fn address_in_host_is_the_address_that_was_dialled() {
        let captured = ConnectionFacts {
            destination: Some("192.0.2.1:80".parse().expect("address")),
            ..facts(Scheme::Http)
        };
        assert_eq!(decide("/", "192.0.2.1", &captured), Ok("http://192.0.2.1".into()));
        assert!(matches!(decide("/", "169.254.169.254", &captured), Err(AuthorityError::Misdirected { .. })));
        assert_eq!(decide("/", "a.example", &captured), Ok("http://a.example".into()));
        let synthetic = ConnectionFacts { destination_name: Some(host("b.example")), ..captured };
        assert!(matches!(decide("/", "a.example", &synthetic), Err(AuthorityError::Misdirected { .. })));
    }

    #[test]
    fn contradictions_inside_a_request_are_bad_requests() {
        let proxy = ConnectionFacts { explicit_proxy: true, ..facts(Scheme::Http) };
        assert_eq!(decide("http://a/", "b", &proxy), Err(AuthorityError::TargetAgainstHost));
        assert_eq!(decide("http://a/", "a:81", &proxy), Err(AuthorityError::TargetAgainstHost));
        assert!(matches!(decide("https://a/", "a", &proxy), Err(AuthorityError::Scheme { .. })));
        assert_eq!(decide("/", "a", &proxy), Err(AuthorityError::FormForProxy));
        assert!(matches!(decide("/", "a b", &facts(Scheme::Http)), Err(AuthorityError::Host(_))));
        assert!(matches!(decide("/", "u@a", &facts(Scheme::Http)), Err(AuthorityError::Host(_))));
        assert!(matches!(decide("/", "a, b", &facts(Scheme::Http)), Err(AuthorityError::Host(_))));
    }

    #[test]
    fn old_request_without_host_goes_where_its_connection_goes() {
        let Ok(Parsed::Complete { head, .. }) = parse_request(b"GET / HTTP/1.0\r\n\r\n") else {
            panic!("head")
        };
        assert_eq!(authority_of(&head, &facts(Scheme::Http)), Err(AuthorityError::Nothing));
        let captured = ConnectionFacts {
            destination: Some("192.0.2.1:81".parse().expect("address")),
            ..facts(Scheme::Http)
        };
        assert_eq!(authority_of(&head, &captured).map(|found| found.to_string()), Ok("192.0.2.1:81".into()));
    }

    #[test]
    fn connect_and_its_host_field_agree() {
        let connect = |target: &str, field: &str| {
            let text = format!("CONNECT {target} HTTP/1.1\r\nHost: {field}\r\n\r\n");
            let Ok(Parsed::Complete { head, .. }) = parse_request(text.as_bytes()) else { panic!("{text}") };
            connect_target(&head).map(|(host, port)| format!("{host} {port}"))
        };
        assert_eq!(connect("A.example:443", "a.example"), Ok("a.example 443".into()));
        assert_eq!(connect("[::1]:443", "[::1]:443"), Ok("[::1] 443".into()));
        assert_eq!(connect("a:443", "b:443"), Err(AuthorityError::TargetAgainstHost));
        assert_eq!(connect("a:443", "a:444"), Err(AuthorityError::TargetAgainstHost));
        assert_eq!(connect("a:", "a"), Err(AuthorityError::Host(HostError::Port)));
    }
}
