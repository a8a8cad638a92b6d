//! What can go wrong in TLS, told apart so that the one who can mend it is told.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};
use thiserror::Error;

use super::leaf::MintError;
use crate::limits::CERTIFICATE_NAMES_SHOWN;

/// What is wrong with an upstream's certificate.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CertificateFault {
    /// It is over.
    #[error("the certificate has expired")]
    Expired,
    /// It is not valid yet.
    #[error("the certificate is not valid yet")]
    NotValidYet,
    /// It is for other names.
    #[error("the certificate is for {names}, not for this host")]
    WrongName {
        /// Those that it holds, as far as there is room.
        names: String,
    },
    /// No configured root signed it.
    #[error("the certificate was not issued by a trusted root")]
    UnknownIssuer,
    /// It is an authority's own, as `openssl req -x509` makes it: such a one never speaks for a server, whatever is
    /// trusted.
    #[error("the certificate is that of an authority, not one for a server")]
    Authority,
    /// Its issuer took it back.
    #[error("the certificate was revoked")]
    Revoked,
    /// A signature does not fit.
    #[error("a signature on the certificate is wrong")]
    BadSignature,
    /// It is not for servers.
    #[error("the certificate is not for servers")]
    WrongPurpose,
    /// Something else.
    #[error("the certificate cannot be accepted: {0}")]
    Other(String),
}

impl From<CertificateError> for CertificateFault {
    fn from(error: CertificateError) -> Self {
        use CertificateError as E;
        match error {
            E::Expired | E::ExpiredContext { .. } => Self::Expired,
            E::NotValidYet | E::NotValidYetContext { .. } => Self::NotValidYet,
            E::NotValidForName => Self::WrongName { names: "another name".into() },
            E::NotValidForNameContext { presented, .. } => Self::WrongName { names: listed(&presented) },
            E::UnknownIssuer => Self::UnknownIssuer,
            E::Revoked => Self::Revoked,
            E::BadSignature => Self::BadSignature,
            E::InvalidPurpose | E::InvalidPurposeContext { .. } => Self::WrongPurpose,
            // The library has no kind of its own for it.
            E::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => Self::Authority,
            other => Self::Other(other.to_string()),
        }
    }
}

/// The first names of a certificate. They are the upstream's words, which go into a refusal.
fn listed(presented: &[String]) -> String {
    let name = |text: &String| {
        // The library says them in the words of its own types.
        let name = text.strip_prefix("DnsName(\"").and_then(|rest| rest.strip_suffix("\")")).unwrap_or(text);
        name.replace(|symbol: char| symbol.is_control() || symbol.is_whitespace(), "?")
    };
    let shown: Vec<_> = presented.iter().take(CERTIFICATE_NAMES_SHOWN).map(name).collect();
    match (shown.is_empty(), presented.len() > shown.len()) {
        (true, _) => "no name".into(),
        (false, true) => format!("{} and others", shown.join(", ")),
        (false, false) => shown.join(", "),
    }
}

/// Why a TLS connection did not come about or broke.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The socket failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The peer ended the connection within the handshake, or later without saying so (RFC 8446 §6.1).
    #[error("the connection was cut off")]
    Truncated,
    /// The first bytes are not a ClientHello.
    #[error("the first bytes are not a TLS ClientHello")]
    NotHello(#[source] Error),
    /// The ClientHello is longer than we keep.
    #[error("the ClientHello is longer than {bytes_max} bytes")]
    HelloTooLong {
        /// The bound.
        bytes_max: usize,
    },
    /// The peer's certificate is not accepted.
    #[error(transparent)]
    Certificate(CertificateFault),
    /// The peer ended the handshake or connection with an alert: for a sandbox most often `unknown_ca`, where it
    /// does not trust its authority yet.
    #[error("the peer refused with the TLS alert {0:?}")]
    Alert(AlertDescription),
    /// The peer knows nothing newer than TLS 1.1.
    #[error("the peer speaks only TLS 1.1 or older")]
    Legacy,
    /// The peer speaks something other than TLS.
    #[error("the peer does not speak TLS")]
    NotTls,
    /// No version, suite or group in common.
    #[error("no TLS version, cipher suite or group in common")]
    NothingInCommon(#[source] Error),
    /// The peer broke the protocol.
    #[error("the peer broke the TLS protocol")]
    Protocol(#[source] Error),
    /// No leaf for the name.
    #[error("no certificate for this name")]
    Mint(#[from] MintError),
    /// Our own settings are not accepted by the TLS library.
    #[error("TLS cannot be set up")]
    Setup(#[source] Error),
}

impl From<Error> for TlsError {
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidCertificate(error) => Self::Certificate(error.into()),
            Error::AlertReceived(alert) => Self::Alert(alert),
            Error::PeerIncompatible(rustls::PeerIncompatible::ServerDoesNotSupportTls12Or13) => Self::Legacy,
            Error::InvalidMessage(
                rustls::InvalidMessage::InvalidContentType
                | rustls::InvalidMessage::UnknownProtocolVersion
                | rustls::InvalidMessage::MessageTooLarge,
            ) => Self::NotTls,
            error @ Error::PeerIncompatible(_) => Self::NothingInCommon(error),
            error => Self::Protocol(error),
        }
    }
}

impl TlsError {
    /// The fault of TLS among the causes of an error, where there is one: sockets hand it on within an [`io::Error`].
    pub fn within<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(fault) = error.downcast_ref::<Self>() {
                return Some(fault);
            }
            next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                Some(inner) => Some(inner as &(dyn std::error::Error + 'static)),
                None => error.source(),
            };
        }
        None
    }

    /// The error as the sockets' users see it: a cut is `UnexpectedEof`, a broken protocol `InvalidData`.
    pub(super) fn into_io(self) -> io::Error {
        match self {
            Self::Io(error) => error,
            Self::Truncated => io::Error::new(io::ErrorKind::UnexpectedEof, self),
            other => io::Error::new(io::ErrorKind::InvalidData, other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_found_behind_the_errors_of_sockets() {
        let told = TlsError::Alert(AlertDescription::CertificateRequired).into_io();
        let outer = io::Error::other(told);
        assert!(matches!(
            TlsError::within(&outer),
            Some(TlsError::Alert(AlertDescription::CertificateRequired))
        ));
        assert!(TlsError::within(&io::Error::from(io::ErrorKind::UnexpectedEof)).is_none());
    }

    #[test]
    fn names_of_a_certificate_are_told_up_to_a_bound_and_without_control_characters() {
        let names: Vec<String> = (0..99).map(|at| format!("DnsName(\"h{at}.example\")")).collect();
        let told = listed(&names);
        assert!(told.starts_with("h0.example, h1.example") && told.ends_with(" and others"), "{told}");
        assert!(told.len() < 200, "{told}");
        assert_eq!(listed(&["a\nb c".into()]), "a?b?c");
        assert_eq!(listed(&[]), "no name");
    }
}
