//! Codes what origins of tests answer, and finds a credential in whatever form a sandbox could read it.

use std::io::Write;

use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use flate2::{
    Compression,
    write::{DeflateEncoder, GzEncoder, ZlibEncoder},
};

/// A text in a content coding by its name; `bare` is deflate as some servers misread it.
///
/// # Panics
/// When there is no such coding.
pub fn coded(coding: &str, text: &[u8]) -> Vec<u8> {
    let level = Compression::default();
    let done = match coding {
        "identity" => Ok(text.to_vec()),
        "gzip" => written(GzEncoder::new(Vec::new(), level), text).and_then(GzEncoder::finish),
        "deflate" => written(ZlibEncoder::new(Vec::new(), level), text).and_then(ZlibEncoder::finish),
        "bare" => written(DeflateEncoder::new(Vec::new(), level), text).and_then(DeflateEncoder::finish),
        "br" => {
            let to = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22);
            written(to, text).map(brotli::CompressorWriter::into_inner)
        }
        "zstd" => Ok(ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest)),
        other => panic!("there is no coding {other}"),
    };
    done.expect("memory takes what is written")
}

fn written<W: Write>(mut to: W, text: &[u8]) -> std::io::Result<W> {
    to.write_all(text)?;
    Ok(to)
}

/// Every byte as a percent-encoded one.
pub fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Every byte as JSON may escape it.
pub fn json_escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("\\u{byte:04x}")).collect()
}

/// Whether a credential can be read from these bytes: as it is, with escapes undone, or out of base64 or digits
/// wherever they begin.
pub fn readable(secret: &str, bytes: &[u8]) -> bool {
    let holds = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    let escapes = [unescaped(bytes, b"%", 2), unescaped(bytes, b"\\u00", 2), bytes.to_vec()];
    // Base64 mixes what stands at the ends with its neighbours.
    let middle = &secret.as_bytes()[2..secret.len() - 2];
    escapes.iter().any(|bytes| {
        holds(bytes, secret.as_bytes())
            || words(bytes).any(|word| {
                let digits: Vec<u8> = word.iter().copied().filter(u8::is_ascii_hexdigit).collect();
                let even = digits.len() & !1;
                HEXLOWER_PERMISSIVE.decode(&digits[..even]).is_ok_and(|read| holds(&read, middle))
                    || (0..4).any(|from| {
                        let word = word.get(from..).unwrap_or_default();
                        let word = &word[..word.len() & !3];
                        [BASE64_NOPAD, BASE64URL_NOPAD]
                            .iter()
                            .any(|encoding| encoding.decode(word).is_ok_and(|read| holds(&read, middle)))
                    })
            })
    })
}

/// Runs of what base64 of either alphabet is made of.
fn words(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| !byte.is_ascii_alphanumeric() && !b"+/-_".contains(byte)).filter(|word| word.len() > 7)
}

/// What stands there when each mark with digits behind it is one byte.
fn unescaped(mut bytes: &[u8], mark: &[u8], digits: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some((first, rest)) = bytes.split_first() {
        let behind = bytes.strip_prefix(mark).and_then(|behind| behind.split_at_checked(digits));
        let read = behind.and_then(|(digits, behind)| {
            let value = HEXLOWER_PERMISSIVE.decode(digits).ok()?;
            Some((*value.first()?, behind))
        });
        let (byte, behind) = read.unwrap_or((*first, rest));
        out.push(byte);
        bytes = behind;
    }
    out
}

#[cfg(test)]
mod tests {
    use data_encoding::{BASE64, HEXUPPER};

    use super::*;

    #[test]
    fn a_credential_is_read_in_every_form_and_not_where_it_is_masked() {
        let secret = "s3cret-value-that-no-sandbox-may-see";
        let basic = BASE64.encode(format!("user:{secret}").as_bytes());
        for form in [
            secret.to_owned(),
            percent(secret),
            json_escaped(secret),
            percent(&basic),
            HEXUPPER.encode(secret.as_bytes()),
            format!("x{basic}"),
            basic,
        ] {
            assert!(readable(secret, format!("<{form}>").as_bytes()), "{form}");
        }
        assert!(!readable(secret, b"<************************************>"));
    }
}
