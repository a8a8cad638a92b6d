//! A sandbox's certificate authority: a key derived from master and salt, and the certificate made with it once.

use std::time::{Duration, SystemTime};

use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use control_wire::certificate::Certificate;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyIdMethod, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SerialNumber, SigningKey,
};
use thiserror::Error;
use zeroize::Zeroizing;

use super::master::{PoolMaster, SandboxSalt};
use crate::limits::{CERTIFICATE_BACKDATE, SANDBOX_NAME_IN_SUBJECT_BYTES_MAX};

/// What the derivation is for; a change of it changes every authority.
const DERIVATION: &[u8] = b"outgate sandbox authority, P-256, version 1";
/// A scalar of P-256 in the form of RFC 5915 §3, with the curve named and without the public point.
const SCALAR_PREFIX: [u8; 7] = [0x30, 0x31, 0x02, 0x01, 0x01, 0x04, 0x20];
const SCALAR_SUFFIX: [u8; 12] = [0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// Why an authority cannot be had, or its certificate not used.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// No counter gave a valid scalar: the chance is below 2⁻⁸⁰⁰⁰.
    #[error("no key can be derived for this sandbox")]
    Derivation,
    /// The certificate could not be made.
    #[error("the authority's certificate cannot be made")]
    Certificate(#[from] rcgen::Error),
    /// The stored bytes are not a certificate of the expected form.
    #[error("the stored authority certificate cannot be read")]
    Unreadable,
    /// The stored certificate belongs to another key: another pool's master, another salt, or a forgery.
    #[error("the stored authority certificate was not made with this sandbox's key")]
    OtherKey,
    /// The machine gave no random bytes.
    #[error("no random bytes")]
    Random,
}

/// The key of a sandbox's authority. The same master and salt give the same key on every plane of the pool.
pub struct Authority(Key);

impl Authority {
    /// Derives the key: HKDF-SHA-256 (RFC 5869) with a counter until the output is a scalar of P-256.
    ///
    /// # Errors
    /// [`AuthorityError::Derivation`].
    pub fn derive(master: &PoolMaster, salt: &SandboxSalt) -> Result<Self, AuthorityError> {
        let extracted = Salt::new(HKDF_SHA256, &salt.0).extract(master.expose());
        for counter in 0..=u8::MAX {
            let mut scalar = Zeroizing::new([0; 32]);
            extracted
                .expand(&[DERIVATION, &[counter]], HKDF_SHA256)
                .and_then(|output| output.fill(scalar.as_mut_slice()))
                .map_err(|_| AuthorityError::Derivation)?;
            let encoded = Zeroizing::new([&SCALAR_PREFIX[..], scalar.as_slice(), &SCALAR_SUFFIX].concat());
            // Zero and values not below the order are refused by the parser; then the next counter is taken.
            if let Ok(key) = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, &encoded) {
                return Ok(Self(Key(key)));
            }
        }
        Err(AuthorityError::Derivation)
    }

    /// Makes the authority's certificate (DER) for the sandbox of that name, valid `ca_days` from `now`. ECDSA is
    /// randomised, so it is made once and stored; a renewal has the same subject and key.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn issue_certificate(
        &self,
        sandbox: &str,
        now: SystemTime,
        ca_days: u32,
    ) -> Result<Vec<u8>, AuthorityError> {
        let mut params = params(&self.common_name(sandbox));
        let end = now + Duration::from_secs(u64::from(ca_days) * 86_400);
        set_validity(&mut params, now - CERTIFICATE_BACKDATE, end);
        params.serial_number = Some(random_serial()?);
        params.use_authority_key_identifier_extension = true;
        Ok(params.self_signed(&self.0)?.der().to_vec())
    }

    /// Joins the key with its stored certificate, after proving that one belongs to the other.
    ///
    /// # Errors
    /// [`AuthorityError::Unreadable`], [`AuthorityError::OtherKey`].
    pub fn with_certificate(self, der: Vec<u8>) -> Result<Issuer, AuthorityError> {
        let parsed = Certificate::parse(&der).ok_or(AuthorityError::Unreadable)?;
        if parsed.public_key_info != self.0.subject_public_key_info() || parsed.issuer != parsed.subject {
            return Err(AuthorityError::OtherKey);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, self.0.der_bytes())
            .verify(parsed.signed, parsed.signature)
            .map_err(|_| AuthorityError::OtherKey)?;
        let name = parsed.last_subject_text().ok_or(AuthorityError::Unreadable)?;
        // What the leaves will name as their issuer must be this subject, byte for byte (RFC 5280 §6.1.3).
        let mirror = params(name).self_signed(&self.0)?;
        let mirrored = Certificate::parse(mirror.der()).ok_or(AuthorityError::Unreadable)?;
        if mirrored.subject != parsed.subject {
            return Err(AuthorityError::Unreadable);
        }
        let (not_before, not_after) = (parsed.not_before, parsed.not_after);
        let signer = rcgen::Issuer::new(params(name), self.0);
        Ok(Issuer { signer, der, not_before, not_after })
    }

    /// Unique per sandbox even where names are long or alike: the key's fingerprint ends it.
    fn common_name(&self, sandbox: &str) -> String {
        let fingerprint = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.0.der_bytes());
        let mut end = sandbox.len().min(SANDBOX_NAME_IN_SUBJECT_BYTES_MAX);
        while !sandbox.is_char_boundary(end) {
            end -= 1;
        }
        let short = data_encoding::HEXLOWER.encode(&fingerprint.as_ref()[..8]);
        format!("Outgate {} {short}", &sandbox[..end])
    }
}

/// An authority with its certificate: what signs a sandbox's leaves.
pub struct Issuer {
    pub(super) signer: rcgen::Issuer<'static, Key>,
    der: Vec<u8>,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

impl Issuer {
    /// The authority's certificate (DER), for the sandbox's trust store.
    pub fn certificate(&self) -> &[u8] {
        &self.der
    }

    /// The end of the authority's certificate.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether two thirds of its days are over, so that a renewal with the same key is due.
    pub fn renewal_is_due(&self, now: SystemTime) -> bool {
        let begin = self.not_before + CERTIFICATE_BACKDATE;
        let days = self.not_after.duration_since(begin).unwrap_or_default();
        now >= begin + days * 2 / 3
    }
}

/// The derived key. aws-lc wipes it when it is freed; it has no `Debug` and no `Clone`.
pub(super) struct Key(EcdsaKeyPair);

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature =
            self.0.sign(&SystemRandom::new(), message).map_err(|_| rcgen::Error::RingUnspecified)?;
        Ok(signature.as_ref().to_vec())
    }
}

/// What each certificate of an authority has in common: subject, pathLen 0, keyCertSign, SKI, no name constraints.
fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.key_identifier_method = KeyIdMethod::Sha256;
    params
}

/// A positive serial of 127 random bits (RFC 5280 §4.1.2.2 asks for uniqueness per issuer).
pub(super) fn random_serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| AuthorityError::Random)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// Sets the validity in whole seconds; times before 1970 count as 1970.
pub(super) fn set_validity(params: &mut CertificateParams, from: SystemTime, to: SystemTime) {
    let seconds =
        |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(seconds(from));
    params.not_after = epoch + Duration::from_secs(seconds(to));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derive(master: &PoolMaster, salt: u8) -> Authority {
        Authority::derive(master, &SandboxSalt([salt; 32])).unwrap()
    }

    #[test]
    fn one_salt_gives_one_key_and_another_salt_or_master_another() {
        let (master, other) = (PoolMaster::ephemeral().unwrap(), PoolMaster::ephemeral().unwrap());
        let key = |authority: Authority| authority.0.der_bytes().to_vec();
        assert_eq!(key(derive(&master, 1)), key(derive(&master, 1)));
        assert_ne!(key(derive(&master, 1)), key(derive(&master, 2)));
        assert_ne!(key(derive(&master, 1)), key(derive(&other, 1)));
    }

    #[test]
    fn a_certificate_is_accepted_only_by_the_key_that_made_it() {
        let master = PoolMaster::ephemeral().unwrap();
        let now = SystemTime::now();
        let der = derive(&master, 1).issue_certificate("box-1", now, 30).unwrap();
        assert!(derive(&master, 1).with_certificate(der.clone()).is_ok());
        assert!(matches!(derive(&master, 2).with_certificate(der.clone()), Err(AuthorityError::OtherKey)));
        for index in 0..der.len() {
            let mut broken = der.clone();
            broken[index] ^= 1;
            assert!(derive(&master, 1).with_certificate(broken).is_err(), "byte {index}");
            assert!(derive(&master, 1).with_certificate(der[..index].to_vec()).is_err());
        }
    }

    #[test]
    fn renewal_is_due_after_two_thirds_and_keeps_subject_and_key() {
        let master = PoolMaster::ephemeral().unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let days = |days: u64| Duration::from_secs(days * 86_400);
        let first = derive(&master, 1).issue_certificate("box-1", now, 30).unwrap();
        let second = derive(&master, 1).issue_certificate("box-1", now + days(20), 30).unwrap();
        let (first_parsed, second_parsed) =
            (Certificate::parse(&first).unwrap(), Certificate::parse(&second).unwrap());
        assert_eq!(first_parsed.subject, second_parsed.subject);
        assert_eq!(first_parsed.public_key_info, second_parsed.public_key_info);
        assert_eq!(first_parsed.not_before, now - CERTIFICATE_BACKDATE);
        assert!(second_parsed.outlasts(&first_parsed) && !first_parsed.outlasts(&second_parsed));
        // Control finds it due a little before a plane offers another.
        assert!(!first_parsed.is_in_its_last_third(now + days(19)));
        assert!(first_parsed.is_in_its_last_third(now + days(20) - Duration::from_secs(7 * 3_600)));
        let issuer = derive(&master, 1).with_certificate(first).unwrap();
        assert_eq!(issuer.not_after(), now + days(30));
        assert!(!issuer.renewal_is_due(now + days(19)));
        assert!(issuer.renewal_is_due(now + days(20)));
    }

    #[test]
    fn subjects_of_sandboxes_differ_even_where_names_are_long_and_alike() {
        let master = PoolMaster::ephemeral().unwrap();
        let name = "ö".repeat(200);
        let first = derive(&master, 1).common_name(&name);
        assert_ne!(first, derive(&master, 2).common_name(&name));
        // ub-common-name of RFC 5280 appendix A.
        assert!(first.chars().count() <= 64);
        let der = derive(&master, 1).issue_certificate(&name, SystemTime::now(), 30).unwrap();
        assert!(derive(&master, 1).with_certificate(der).is_ok());
    }
}
