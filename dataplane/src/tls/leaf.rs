//! Leaves: certificates for exactly one name or address, minted on demand and kept within bounds.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use thiserror::Error;
use zeroize::Zeroizing;

use super::authority::{AuthorityError, Issuer, random_serial, set_validity};
use crate::limits::{CERTIFICATE_BACKDATE, LEAF_AGE_MAX, LEAF_LIFE};

/// What a leaf is for: one DNS name in lower case without a final dot, or one address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CertName {
    /// A DNS name.
    Dns(Box<str>),
    /// An address.
    Ip(IpAddr),
}

impl CertName {
    /// Reads a host as a client wrote it; `None` where it is neither a DNS name nor an address. Wildcards are not
    /// names.
    pub fn parse(host: &str) -> Option<Self> {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Some(Self::Ip(address.to_canonical()));
        }
        let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        DnsName::try_from(name.as_str()).ok()?;
        Some(Self::Dns(name.into_boxed_str()))
    }
}

/// Why no leaf can be had.
#[derive(Debug, Error)]
pub enum MintError {
    /// The authority's certificate is over, or not valid yet.
    #[error("the sandbox's authority certificate is not valid now; renew it")]
    AuthorityNotValid,
    /// The certificate could not be made.
    #[error("the leaf cannot be made")]
    Certificate(#[from] rcgen::Error),
    /// The leaf's key cannot sign.
    #[error("the leaf's key cannot be used")]
    Key(#[source] rustls::Error),
    /// No serial number could be made.
    #[error("no serial number")]
    Serial(#[source] AuthorityError),
}

/// A minted certificate, ready to serve.
pub(super) struct Leaf {
    pub(super) key: Arc<CertifiedKey>,
    /// From then on it is minted anew.
    pub(super) fresh_until: SystemTime,
}

/// The one leaf key of a terminator and the authority that signs for it.
pub(super) struct Mint {
    issuer: Issuer,
    key: KeyPair,
    signing: Arc<dyn SigningKey>,
}

impl Mint {
    pub(super) fn new(issuer: Issuer) -> Result<Self, MintError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let encoded = Zeroizing::new(key.serialize_der());
        let signing = any_ecdsa_type(&PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(encoded.as_slice())))
            .map_err(MintError::Key)?;
        Ok(Self { issuer, key, signing })
    }

    pub(super) fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// Makes a leaf: one subject alternative name, AKI, SKI, serverAuth, never beyond the authority.
    pub(super) fn leaf(&self, name: &CertName, now: SystemTime) -> Result<Leaf, MintError> {
        let (authority_begins, authority_ends) = (self.issuer.not_before, self.issuer.not_after);
        if now < authority_begins || now >= authority_ends {
            return Err(MintError::AuthorityNotValid);
        }
        let mut params = CertificateParams::default();
        // The subject is empty, so the alternative name is critical (RFC 5280 §4.2.1.6); names may pass 64 characters.
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![match name {
            CertName::Dns(name) => SanType::DnsName((&**name).try_into()?),
            CertName::Ip(address) => SanType::IpAddress(*address),
        }];
        // Explicit, because only then is a subject key identifier written.
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.key_identifier_method = KeyIdMethod::Sha256;
        params.serial_number = Some(random_serial().map_err(MintError::Serial)?);
        let ends = (now + LEAF_LIFE).min(authority_ends);
        set_validity(&mut params, (now - CERTIFICATE_BACKDATE).max(authority_begins), ends);
        let certificate = params.signed_by(&self.key, &self.issuer.signer)?;
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        Ok(Leaf {
            key: Arc::new(CertifiedKey::new(chain, self.signing.clone())),
            fresh_until: (now + LEAF_AGE_MAX).min(ends),
        })
    }
}

/// The most recently used values by name; the least recently used one leaves when there are too many.
pub(super) struct Recent<T> {
    entries: HashMap<CertName, (u64, SystemTime, T)>,
    bound: usize,
    turn: u64,
}

impl<T> Recent<T> {
    pub(super) fn new(bound: usize) -> Self {
        Self { entries: HashMap::new(), bound, turn: 0 }
    }

    /// The value of that name, unless it is no longer fresh.
    pub(super) fn find(&mut self, name: &CertName, now: SystemTime) -> Option<&mut T> {
        self.turn += 1;
        let (used, fresh_until, value) = self.entries.get_mut(name)?;
        if now >= *fresh_until {
            return None;
        }
        *used = self.turn;
        Some(value)
    }

    /// Keeps a value. The scan for the oldest costs less than the minting that led here.
    pub(super) fn keep(&mut self, name: CertName, fresh_until: SystemTime, value: T) {
        if self.entries.len() >= self.bound && !self.entries.contains_key(&name) {
            let oldest =
                self.entries.iter().min_by_key(|(_, (used, ..))| *used).map(|(name, _)| name.clone());
            if let Some(oldest) = oldest {
                self.entries.remove(&oldest);
            }
        }
        self.turn += 1;
        self.entries.insert(name, (self.turn, fresh_until, value));
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::super::authority::Authority;
    use super::super::master::{PoolMaster, SandboxSalt};
    use super::*;
    use control_wire::certificate::Certificate;

    fn issuer(now: SystemTime, days: u32) -> Issuer {
        let master = PoolMaster::ephemeral().unwrap();
        let salt = SandboxSalt([7; 32]);
        let der = Authority::derive(&master, &salt).unwrap().issue_certificate("box", now, days).unwrap();
        Authority::derive(&master, &salt).unwrap().with_certificate(der).unwrap()
    }

    fn pem(der: &[u8]) -> String {
        let body = data_encoding::BASE64.encode(der);
        let lines: Vec<_> =
            body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    }

    #[test]
    fn leaf_lives_seven_days_and_never_beyond_its_authority() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let mint = Mint::new(issuer(now, 30)).unwrap();
        let name = CertName::parse("api.example.com").unwrap();
        let validity = |at: SystemTime| {
            let leaf = mint.leaf(&name, at).unwrap();
            let parsed = Certificate::parse(&leaf.key.cert[0]).unwrap();
            assert_eq!(parsed.issuer, Certificate::parse(mint.issuer().certificate()).unwrap().subject);
            (parsed.not_before, parsed.not_after, leaf.fresh_until)
        };
        assert_eq!(validity(now), (now - CERTIFICATE_BACKDATE, now + LEAF_LIFE, now + LEAF_AGE_MAX));
        let end = mint.issuer().not_after();
        let late = end - Duration::from_secs(60);
        assert_eq!(validity(late), (late - CERTIFICATE_BACKDATE, end, end));
        assert!(matches!(mint.leaf(&name, end), Err(MintError::AuthorityNotValid)));
    }

    #[test]
    fn openssl_accepts_authority_and_leaves_strictly() {
        let now = SystemTime::now();
        let mint = Mint::new(issuer(now, 30)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("ca.pem"), pem(mint.issuer().certificate())).unwrap();
        let long = format!("{}.{}.example.com", "a".repeat(60), "b".repeat(60));
        for (host, flag) in [
            ("api.example.com", "-verify_hostname"),
            (long.as_str(), "-verify_hostname"),
            ("192.0.2.7", "-verify_ip"),
            ("2001:db8::7", "-verify_ip"),
        ] {
            let leaf = mint.leaf(&CertName::parse(host).unwrap(), now).unwrap();
            std::fs::write(path("leaf.pem"), pem(&leaf.key.cert[0])).unwrap();
            let verify = |host: &str| {
                Command::new("openssl")
                    .args(["verify", "-x509_strict", "-check_ss_sig", "-purpose", "sslserver", flag, host])
                    .arg("-CAfile")
                    .arg(path("ca.pem"))
                    .arg(path("leaf.pem"))
                    .output()
                    .unwrap()
            };
            let good = verify(host);
            assert!(good.status.success(), "{host}: {}", String::from_utf8_lossy(&good.stderr));
            let other = if flag == "-verify_ip" { "192.0.2.8" } else { "other.example.com" };
            assert!(!verify(other).status.success());
        }
        let text =
            Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(path("ca.pem")).output();
        let text = String::from_utf8(text.unwrap().stdout).unwrap();
        for part in ["CA:TRUE, pathlen:0", "Certificate Sign", "Subject Key Identifier", "prime256v1"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("Name Constraints"));
        let text =
            Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(path("leaf.pem")).output();
        let text = String::from_utf8(text.unwrap().stdout).unwrap();
        for part in ["IP Address:2001:DB8", "TLS Web Server Authentication", "Authority Key Identifier"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn hosts_become_names_or_addresses_and_nothing_else() {
        assert_eq!(CertName::parse("API.Example.com."), Some(CertName::Dns("api.example.com".into())));
        assert_eq!(CertName::parse("[2001:db8::1]"), Some(CertName::Ip("2001:db8::1".parse().unwrap())));
        assert_eq!(CertName::parse("::ffff:192.0.2.1"), Some(CertName::Ip("192.0.2.1".parse().unwrap())));
        for host in ["", ".", "*.example.com", "a b", "a..b", "exämple.com", "[1"] {
            assert_eq!(CertName::parse(host), None, "{host}");
        }
    }

    #[test]
    fn cache_is_bounded_by_use_and_forgets_what_is_over() {
        let now = SystemTime::UNIX_EPOCH;
        let later = now + Duration::from_secs(10);
        let name = |index: u32| CertName::Dns(format!("n{index}").into());
        let mut recent = Recent::new(2);
        recent.keep(name(1), later, 1);
        recent.keep(name(2), later, 2);
        assert_eq!(recent.find(&name(1), now), Some(&mut 1));
        recent.keep(name(3), later, 3);
        assert_eq!(recent.len(), 2);
        assert_eq!(recent.find(&name(2), now), None);
        assert_eq!(recent.find(&name(1), now), Some(&mut 1));
        assert_eq!(recent.find(&name(1), later), None);
        recent.keep(name(1), later + Duration::from_secs(1), 4);
        assert_eq!((recent.len(), recent.find(&name(1), later)), (2, Some(&mut 4)));
    }
}
