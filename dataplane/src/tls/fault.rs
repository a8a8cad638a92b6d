//! What can go wrong in TLS, told apart so that the one who can mend it is told.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};
use thiserror::Error;

use super::leaf::MintError;

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
    #[error("the certificate is for another name")]
    WrongName,
    /// No configured root signed it.
    #[error("the certificate was not issued by a trusted root")]
    UnknownIssuer,
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
            E::NotValidForName | E::NotValidForNameContext { .. } => Self::WrongName,
            E::UnknownIssuer => Self::UnknownIssuer,
            E::Revoked => Self::Revoked,
            E::BadSignature => Self::BadSignature,
            E::InvalidPurpose | E::InvalidPurposeContext { .. } => Self::WrongPurpose,
            other => Self::Other(other.to_string()),
        }
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
    /// The error as the sockets' users see it: a cut is `UnexpectedEof`, a broken protocol `InvalidData`.
    pub(super) fn into_io(self) -> io::Error {
        match self {
            Self::Io(error) => error,
            Self::Truncated => io::Error::new(io::ErrorKind::UnexpectedEof, self),
            other => io::Error::new(io::ErrorKind::InvalidData, other),
        }
    }
}
