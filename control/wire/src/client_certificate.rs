//! Client certificates as secrets hold them: a chain and its key in PEM form. Control reads them when they are written,
//! a plane before it shows them.

use data_encoding::BASE64;
use zeroize::Zeroizing;

use crate::limits::CLIENT_CHAIN_MAX;

/// Why a secret is no client certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFlaw {
    /// There is no certificate in it.
    #[error("it holds no certificate; write the chain, then the key, in PEM form")]
    NoCertificate,
    /// The chain is too long.
    #[error(
        "its chain has more than {CLIENT_CHAIN_MAX} certificates; leave those away that the upstream knows"
    )]
    TooLong,
    /// There is no key in it, or more than one.
    #[error("it holds {0} keys; write the chain, then its one key, in PEM form")]
    Keys(usize),
    /// The key needs a password.
    #[error("its key is encrypted; write it without a password (openssl pkey)")]
    Encrypted,
    /// A block is not base64.
    #[error("it is not PEM")]
    NotPem,
    /// The library does not know such keys.
    #[error("its key is none of RSA, P-256, P-384, P-521 or Ed25519")]
    Kind,
    /// The first certificate is of another key.
    #[error(
        "its first certificate is not that of its key; write the client's own first, then those that issued it"
    )]
    Mismatch,
}

/// How a key is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// `PRIVATE KEY` (RFC 5958).
    Pkcs8,
    /// `RSA PRIVATE KEY` (RFC 8017 §A.1.2).
    Pkcs1,
    /// `EC PRIVATE KEY` (RFC 5915).
    Sec1,
}

/// A chain and its key. Nothing prints it.
pub struct ClientCertificate {
    /// Certificates in DER form, the client's own first.
    pub chain: Vec<Vec<u8>>,
    /// How the key is encoded.
    pub kind: KeyKind,
    /// The key in DER form, wiped when dropped.
    pub key: Zeroizing<Vec<u8>>,
}

/// Whether a value is meant to be a client certificate: such a one goes into the TLS library and nowhere else.
pub fn holds_key(value: &[u8]) -> bool {
    // A document that has a key within a line, as JSON has, is something else.
    value
        .split(|byte| matches!(byte, b'\n' | b'\r'))
        .map(<[u8]>::trim_ascii)
        .any(|line| line.starts_with(b"-----BEGIN ") && line.ends_with(b"PRIVATE KEY-----"))
}

impl ClientCertificate {
    /// Reads a secret's value: blocks in any order, with remarks between. Whether key and certificate belong together is
    /// for a library that knows keys.
    ///
    /// # Errors
    /// [`CertificateFlaw`], which says what to write instead and nothing of the value.
    pub fn read(value: &[u8]) -> Result<Self, CertificateFlaw> {
        let (mut chain, mut keys) = (Vec::new(), Vec::new());
        for (label, bytes) in blocks(value)? {
            match label {
                "CERTIFICATE" => chain.push(bytes.to_vec()),
                "ENCRYPTED PRIVATE KEY" => return Err(CertificateFlaw::Encrypted),
                "RSA PRIVATE KEY" => keys.push((KeyKind::Pkcs1, bytes)),
                "EC PRIVATE KEY" => keys.push((KeyKind::Sec1, bytes)),
                "PRIVATE KEY" => keys.push((KeyKind::Pkcs8, bytes)),
                label if label.ends_with("PRIVATE KEY") => return Err(CertificateFlaw::Kind),
                // Parameters of curves: nothing that is needed.
                _ => {}
            }
        }
        match chain.len() {
            0 => return Err(CertificateFlaw::NoCertificate),
            1..=CLIENT_CHAIN_MAX => {}
            _ => return Err(CertificateFlaw::TooLong),
        }
        match (keys.pop(), keys.len()) {
            (Some((kind, key)), 0) => Ok(Self { chain, kind, key }),
            (last, others) => Err(CertificateFlaw::Keys(others + usize::from(last.is_some()))),
        }
    }
}

/// A label and what stands in its block.
type Blocks<'a> = Vec<(&'a str, Zeroizing<Vec<u8>>)>;

/// The blocks of a PEM text (RFC 7468 §2), decoded into memory that is wiped.
fn blocks(value: &[u8]) -> Result<Blocks<'_>, CertificateFlaw> {
    let text = std::str::from_utf8(value).map_err(|_| CertificateFlaw::NotPem)?;
    let mut found = Vec::new();
    let mut open: Option<(&str, Zeroizing<Vec<u8>>)> = None;
    for line in text.lines().map(str::trim) {
        let marked = |front: &str| line.strip_prefix(front).and_then(|rest| rest.strip_suffix("-----"));
        if let Some(label) = marked("-----BEGIN ") {
            // Sized once: a growing buffer would leave copies behind unwiped.
            open = Some((label, Zeroizing::new(Vec::with_capacity(value.len()))));
        } else if let Some(label) = marked("-----END ") {
            let (begun, encoded) = open.take().ok_or(CertificateFlaw::NotPem)?;
            if begun != label {
                return Err(CertificateFlaw::NotPem);
            }
            let bytes_max = BASE64.decode_len(encoded.len()).map_err(|_| CertificateFlaw::NotPem)?;
            let mut bytes = Zeroizing::new(vec![0; bytes_max]);
            let count = BASE64.decode_mut(&encoded, &mut bytes).map_err(|_| CertificateFlaw::NotPem)?;
            bytes.truncate(count);
            found.push((label, bytes));
        } else if let Some((_, encoded)) = &mut open {
            // Older keys have fields of their own in front: `Proc-Type: 4,ENCRYPTED`.
            if line.contains(':') {
                return Err(CertificateFlaw::Encrypted);
            }
            encoded.extend_from_slice(line.as_bytes());
        }
    }
    match open {
        None => Ok(found),
        Some(_) => Err(CertificateFlaw::NotPem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(label: &str, bytes: &[u8]) -> String {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64.encode(bytes))
    }

    #[test]
    fn a_chain_and_its_key_are_read_in_any_order_with_remarks_between() {
        let text = format!(
            "subject=x\r\n{}# y\n{}{}",
            block("EC PRIVATE KEY", b"key"),
            block("CERTIFICATE", b"own"),
            block("CERTIFICATE", b"issuer")
        )
        .replace('\n', "\r\n");
        let read = ClientCertificate::read(text.as_bytes()).unwrap_or_else(|flaw| panic!("{flaw}"));
        assert_eq!((read.chain, read.kind), (vec![b"own".to_vec(), b"issuer".to_vec()], KeyKind::Sec1));
        assert_eq!(&**read.key, b"key");
        assert!(holds_key(text.as_bytes()) && !holds_key(block("CERTIFICATE", b"own").as_bytes()));
        assert!(!holds_key(br#"{"key": "-----BEGIN PRIVATE KEY-----\nabc"}"#));
    }

    #[test]
    fn what_is_not_whole_is_refused_by_what_is_missing() {
        let (own, key) = (block("CERTIFICATE", b"own"), block("PRIVATE KEY", b"key"));
        let flaw = |text: String| ClientCertificate::read(text.as_bytes()).map(|_| ()).unwrap_err();
        assert_eq!(flaw("token".into()), CertificateFlaw::NoCertificate);
        assert_eq!(flaw(key.clone()), CertificateFlaw::NoCertificate);
        assert_eq!(flaw(own.clone()), CertificateFlaw::Keys(0));
        assert_eq!(flaw(format!("{own}{key}{key}")), CertificateFlaw::Keys(2));
        assert_eq!(flaw(format!("{}{key}", own.repeat(CLIENT_CHAIN_MAX + 1))), CertificateFlaw::TooLong);
        assert_eq!(flaw(own.clone() + &block("ENCRYPTED PRIVATE KEY", b"key")), CertificateFlaw::Encrypted);
        let older = key.replace("KEY-----\n", "KEY-----\nProc-Type: 4,ENCRYPTED\n");
        assert_eq!(flaw(own.clone() + &older), CertificateFlaw::Encrypted);
        assert_eq!(flaw(own.clone() + &block("DSA PRIVATE KEY", b"key")), CertificateFlaw::Kind);
        assert_eq!(flaw(own.replace("-----END CERTIFICATE-----", "")), CertificateFlaw::NotPem);
        assert_eq!(flaw(own.replace("-----END C", "-----END D")), CertificateFlaw::NotPem);
        assert_eq!(
            flaw("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----".into()),
            CertificateFlaw::NotPem
        );
        assert_eq!(ClientCertificate::read(&[0xff]).map(|_| ()).unwrap_err(), CertificateFlaw::NotPem);
    }
}
