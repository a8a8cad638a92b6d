//! A database of NSS that trusts one authority: what Chromium reads, which heeds neither files nor variables.
//!
//! Two SQLite files. A column is an attribute of PKCS#11, called `a` and its number in hexadecimal; numbers are four
//! bytes in network order. Without a password nothing is signed, so the file of keys has its tables and no row.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use rusqlite::{Connection, MAIN_DB, params};

const CLASS: &str = "a0";
const TOKEN: &str = "a1";
const PRIVATE: &str = "a2";
const LABEL: &str = "a3";
const VALUE: &str = "a11";
const CERTIFICATE_TYPE: &str = "a80";
const ISSUER: &str = "a81";
const SERIAL_NUMBER: &str = "a82";
const SUBJECT: &str = "a101";
const ID: &str = "a102";
const MODIFIABLE: &str = "a170";
/// `CKA_TRUST_SERVER_AUTH`, `CLIENT_AUTH`, `CODE_SIGNING`, `EMAIL_PROTECTION`, `STEP_UP_APPROVED`.
const TRUST: [&str; 5] = ["ace536358", "ace536359", "ace53635a", "ace53635b", "ace536360"];
const SHA1_HASH: &str = "ace5363b4";

const CLASS_CERTIFICATE: u32 = 1;
const CLASS_TRUST: u32 = 0xce53_4353;
const X509: u32 = 0;
/// An authority whose certificates are trusted; one that must be verified.
const TRUSTED_DELEGATOR: u32 = 0xce53_4352;
const MUST_VERIFY: u32 = 0xce53_4353;

/// A database's two files: name and content.
type Files = [(&'static str, Vec<u8>); 2];

/// The files of a database that trusts this authority (DER) for servers. `None` where that is no certificate.
///
/// # Errors
/// What SQLite says.
pub(super) fn database(authority: &[u8]) -> rusqlite::Result<Option<Files>> {
    let Some(names) = Names::read(authority) else { return Ok(None) };
    let columns = [
        CLASS,
        TOKEN,
        PRIVATE,
        LABEL,
        VALUE,
        CERTIFICATE_TYPE,
        ISSUER,
        SERIAL_NUMBER,
        SUBJECT,
        ID,
        MODIFIABLE,
    ];
    let columns = [&columns[..], &TRUST, &[SHA1_HASH]].concat().join(", ");
    let table =
        |name: &str| format!("CREATE TABLE {name} (id PRIMARY KEY UNIQUE ON CONFLICT ABORT, {columns})");

    let certificates = Connection::open_in_memory()?;
    certificates.execute_batch(&table("nssPublic"))?;
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, authority);
    let number = |number: u32| number.to_be_bytes();
    certificates.execute(
        &format!(
            "INSERT INTO nssPublic (id, {CLASS}, {TOKEN}, {PRIVATE}, {LABEL}, {VALUE}, {CERTIFICATE_TYPE}, {ISSUER}, \
             {SERIAL_NUMBER}, {SUBJECT}, {ID}, {MODIFIABLE}) VALUES (1, ?1, x'01', x'00', ?2, ?3, ?4, ?5, ?6, ?7, ?8, x'01')"
        ),
        params![
            number(CLASS_CERTIFICATE),
            &b"outgate"[..],
            authority,
            number(X509),
            names.issuer,
            names.serial_number,
            names.subject,
            hash.as_ref()
        ],
    )?;
    let [server, client, code, mail, step_up] = TRUST;
    certificates.execute(
        &format!(
            "INSERT INTO nssPublic (id, {CLASS}, {TOKEN}, {PRIVATE}, {ISSUER}, {SERIAL_NUMBER}, {MODIFIABLE}, {server}, \
             {client}, {code}, {mail}, {step_up}, {SHA1_HASH}) \
             VALUES (2, ?1, x'01', x'00', ?2, ?3, x'01', ?4, ?5, ?5, ?5, x'00', ?6)"
        ),
        params![
            number(CLASS_TRUST),
            names.issuer,
            names.serial_number,
            number(TRUSTED_DELEGATOR),
            number(MUST_VERIFY),
            hash.as_ref()
        ],
    )?;

    let keys = Connection::open_in_memory()?;
    keys.execute_batch(&table("nssPrivate"))?;
    keys.execute_batch("CREATE TABLE metaData (id PRIMARY KEY UNIQUE ON CONFLICT REPLACE, item1, item2)")?;
    Ok(Some([
        ("cert9.db", certificates.serialize(MAIN_DB)?.to_vec()),
        ("key4.db", keys.serialize(MAIN_DB)?.to_vec()),
    ]))
}

/// Parts of a certificate (RFC 5280 §4.1), each with its tag and length.
struct Names<'a> {
    serial_number: &'a [u8],
    issuer: &'a [u8],
    subject: &'a [u8],
}

impl<'a> Names<'a> {
    fn read(certificate: &'a [u8]) -> Option<Self> {
        const VERSION: u8 = 0xa0;
        let (_, signed, _) = part(certificate)?;
        let (_, mut rest, _) = part(signed)?;
        if *rest.first()? == VERSION {
            rest = part(rest)?.2;
        }
        let (serial_number, _, rest) = part(rest)?;
        let (_algorithm, _, rest) = part(rest)?;
        let (issuer, _, rest) = part(rest)?;
        let (_validity, _, rest) = part(rest)?;
        let (subject, ..) = part(rest)?;
        Some(Self { serial_number, issuer, subject })
    }
}

/// The first part whole, its content, and what follows (X.690 §8.1).
fn part(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (head, length) = match *bytes.get(1)? {
        length @ 0..=0x7f => (2, usize::from(length)),
        0x80 => return None,
        0x81 => (3, usize::from(*bytes.get(2)?)),
        0x82 => (4, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]))),
        0x83.. => return None,
    };
    let (whole, rest) = bytes.split_at_checked(head + length)?;
    Some((whole, &whole[head..], rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_is_found_by_its_names_and_trusted_for_servers_alone() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "authority");
        params.serial_number = Some(vec![0x12, 0x34].into());
        let authority = params.self_signed(&key).unwrap();
        let [(name, bytes), (keys, _)] = database(authority.der()).unwrap().unwrap();
        assert_eq!((name, keys), ("cert9.db", "key4.db"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let read = Connection::open(path).unwrap();
        let ask = "SELECT c.a11, c.a82, c.a101 = c.a81, t.ace536358, t.ace536359 FROM nssPublic c JOIN nssPublic t \
                   ON c.a81 = t.a81 AND c.a82 = t.a82 WHERE c.a0 = x'00000001' AND t.a0 = x'ce534353'";
        let found: (Vec<u8>, Vec<u8>, bool, Vec<u8>, Vec<u8>) = read
            .query_row(ask, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))
            .unwrap();
        assert_eq!(
            (&found.0[..], &found.1[..], found.2),
            (&authority.der()[..], &[2, 2, 0x12, 0x34][..], true)
        );
        assert_eq!(
            (&found.3[..], &found.4[..]),
            (&[0xce, 0x53, 0x43, 0x52][..], &[0xce, 0x53, 0x43, 0x53][..])
        );
    }

    #[test]
    fn what_is_cut_off_is_no_certificate() {
        let key = rcgen::KeyPair::generate().unwrap();
        let whole = rcgen::CertificateParams::new(vec!["a".into()]).unwrap().self_signed(&key).unwrap();
        for end in 0..whole.der().len() {
            assert!(database(&whole.der()[..end]).unwrap().is_none(), "{end}");
        }
    }
}
