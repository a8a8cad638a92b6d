//! A trust store as Java takes it: PKCS#12 (RFC 7292) with each certificate marked as trusted, and nothing encrypted.
//!
//! There is nothing secret in it, so it has neither password nor checksum; Java opens it without one, and with any.

const CONTEXT_0: u8 = 0xa0;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const BMP_STRING: u8 = 0x1e;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;

/// 1.2.840.113549.1.7.1, `data` (RFC 5652 §4).
const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
/// 1.2.840.113549.1.12.10.1.3, `certBag` (RFC 7292 §4.2.3).
const CERTIFICATE_BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x03];
/// 1.2.840.113549.1.9.22.1, `x509Certificate`.
const X509_CERTIFICATE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x16, 0x01];
/// 1.2.840.113549.1.9.20, `friendlyName`.
const FRIENDLY_NAME: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x14];
/// 2.16.840.1.113894.746875.1.1, Oracle's `trustedKeyUsage`: without it Java sees no trusted entry.
const TRUSTED_KEY_USAGE: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x86, 0xf9, 0x66, 0xad, 0xca, 0x7b, 0x01, 0x01];
/// 2.5.29.37.0, `anyExtendedKeyUsage` (RFC 5280 §4.2.1.12).
const ANY_USAGE: &[u8] = &[0x55, 0x1d, 0x25, 0x00];

/// A store of certificates (DER), each trusted for everything.
pub fn trust_store<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let bags: Vec<u8> =
        certificates.into_iter().enumerate().flat_map(|(index, der)| bag(index, der)).collect();
    let safe = data(&part(SEQUENCE, &bags));
    let version = part(INTEGER, &[3]);
    part(SEQUENCE, &[version, data(&part(SEQUENCE, &safe))].concat())
}

/// SafeBag with its two attributes.
fn bag(index: usize, certificate: &[u8]) -> Vec<u8> {
    let value = part(CONTEXT_0, &part(OCTET_STRING, certificate));
    let value = part(SEQUENCE, &[part(OBJECT_IDENTIFIER, X509_CERTIFICATE), value].concat());
    // Java takes one entry per name.
    let name: Vec<u8> = format!("outgate-{index}").encode_utf16().flat_map(u16::to_be_bytes).collect();
    let attributes = [
        attribute(FRIENDLY_NAME, &part(BMP_STRING, &name)),
        attribute(TRUSTED_KEY_USAGE, &part(OBJECT_IDENTIFIER, ANY_USAGE)),
    ];
    let kind = part(OBJECT_IDENTIFIER, CERTIFICATE_BAG);
    part(SEQUENCE, &[kind, part(CONTEXT_0, &value), part(SET, &attributes.concat())].concat())
}

fn attribute(kind: &[u8], value: &[u8]) -> Vec<u8> {
    part(SEQUENCE, &[part(OBJECT_IDENTIFIER, kind), part(SET, value)].concat())
}

/// ContentInfo of the kind `data`.
fn data(content: &[u8]) -> Vec<u8> {
    let content = part(CONTEXT_0, &part(OCTET_STRING, content));
    part(SEQUENCE, &[part(OBJECT_IDENTIFIER, DATA), content].concat())
}

/// Tag, length, content (X.690 §8.1.3).
fn part(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut whole = vec![tag];
    match u8::try_from(content.len()) {
        Ok(length @ 0..=0x7f) => whole.push(length),
        _ => {
            let length = content.len().to_be_bytes();
            let length = &length[length.iter().take_while(|byte| **byte == 0).count()..];
            // At most eight.
            whole.push(0x80 | u8::try_from(length.len()).unwrap_or(0x7f));
            whole.extend_from_slice(length);
        }
    }
    whole.extend_from_slice(content);
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_the_shortest_form() {
        assert_eq!(part(4, &[7; 3])[..3], [4, 3, 7]);
        assert_eq!(part(4, &[7; 127])[..2], [4, 127]);
        assert_eq!(part(4, &[7; 128])[..3], [4, 0x81, 128]);
        assert_eq!(part(4, &[7; 256])[..4], [4, 0x82, 1, 0]);
    }

    #[test]
    fn a_store_is_one_whole_part_with_each_certificate_in_it() {
        let (first, second) = (vec![1; 200], vec![2; 300]);
        let store = trust_store([&first[..], &second[..]]);
        let (length, head) = (usize::from(u16::from_be_bytes([store[2], store[3]])), &store[..2]);
        assert_eq!((head, length + 4), (&[SEQUENCE, 0x82][..], store.len()));
        for certificate in [first, second] {
            assert!(store.windows(certificate.len()).any(|window| window == certificate));
        }
    }
}
