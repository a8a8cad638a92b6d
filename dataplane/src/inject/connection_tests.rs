//! Client certificates are read whole or refused with the way out; nothing of a key leaves.

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

use super::*;

fn pair() -> (String, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["client".to_owned()]).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key)
}

#[test]
fn a_chain_and_its_key_are_taken_in_any_order_with_remarks_between() {
    for algorithm in [&PKCS_ED25519, &PKCS_ECDSA_P384_SHA384] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let own = CertificateParams::new(vec!["client".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        let (issuer, _) = pair();
        for text in [
            format!("{own}{}", key.serialize_pem()),
            format!("subject=client\n{}\r\n{own}# who issued it\n{issuer}", key.serialize_pem()),
        ] {
            let certified = certified(text.as_bytes()).unwrap();
            assert_eq!(certified.cert[0].len(), BASE64.decode(body(&own).as_bytes()).unwrap().len());
        }
    }
}

fn body(pem: &str) -> String {
    pem.lines().filter(|line| !line.starts_with("-----")).collect()
}

#[test]
fn a_key_that_is_no_key_or_another_ones_is_refused() {
    let (own, key) = pair();
    let (other, _) = pair();
    let flaw = |text: String| certified(text.as_bytes()).map(drop).unwrap_err();
    assert_eq!(flaw(format!("{other}{}", key.serialize_pem())), CertificateFlaw::Mismatch);
    let nonsense = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----";
    assert_eq!(flaw(format!("{own}{nonsense}")), CertificateFlaw::Kind);
}

#[test]
fn marks_tell_values_and_secrets_apart_and_print_neither() {
    let (one, two): (Arc<str>, Arc<str>) = ("one".into(), "two".into());
    assert_eq!(Mark::of(&one, b"value"), Mark::of(&one, b"value"));
    assert_ne!(Mark::of(&one, b"value"), Mark::of(&one, b"other"));
    assert_ne!(Mark::of(&one, b"value"), Mark::of(&two, b"value"));
    assert_eq!(format!("{:?}", Mark::of(&one, b"value")), "Mark { secret: \"one\", .. }");
}

#[test]
fn a_login_is_written_as_each_kind_of_proxy_reads_it() {
    let name: Arc<str> = "p".into();
    let value = b"me:pass:word";
    let login = Login { value: Zeroizing::new((*value).into()), colon: 2, mark: Mark::of(&name, value) };
    assert_eq!(&**login.socks5(), b"\x01\x02me\x09pass:word");
    assert_eq!(&**login.basic(), b"Basic bWU6cGFzczp3b3Jk");
}
