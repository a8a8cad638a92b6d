//! Request targets: their four forms, and what no target may hold.

use crate::limits::TARGET_BYTES_MAX;

use super::{
    fault::HeadError,
    head::{Span, TargetForm},
    host::Scheme,
};

/// A target taken apart.
pub(super) struct Target {
    pub(super) form: TargetForm,
    pub(super) whole: Span,
    pub(super) scheme: Option<Scheme>,
    pub(super) authority: Span,
    pub(super) path: Span,
    pub(super) query: Option<Span>,
}

/// Takes the target apart, its form checked against the method (RFC 9112 §3.2).
pub(super) fn read(block: &[u8], method: &str, text: &str) -> Result<Target, HeadError> {
    let bytes = text.as_bytes();
    if bytes.len() > TARGET_BYTES_MAX {
        return Err(HeadError::TargetTooLong);
    }
    if bytes.contains(&b'#') {
        return Err(HeadError::Fragment);
    }
    // RFC 3986 §2 without what real clients leave as it is (`|`, `{`, `^`, …), which confuses nobody.
    if !bytes.iter().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>')) {
        return Err(HeadError::Target);
    }
    let whole = Span::of(block, bytes);
    let nothing = Span::default();
    if method == "CONNECT" {
        if bytes.contains(&b'@') {
            return Err(HeadError::UserInfo);
        }
        let sound = bytes.contains(&b':') && !bytes.iter().any(|byte| matches!(byte, b'/' | b'?' | b'\\'));
        return if sound {
            let form = TargetForm::Authority;
            Ok(Target { form, whole, scheme: None, authority: whole, path: nothing, query: None })
        } else {
            Err(HeadError::Target)
        };
    }
    if bytes == b"*" {
        return if method == "OPTIONS" {
            let form = TargetForm::Asterisk;
            Ok(Target { form, whole, scheme: None, authority: nothing, path: nothing, query: None })
        } else {
            Err(HeadError::Target)
        };
    }
    if bytes.starts_with(b"/") {
        let (path, query) = split_query(bytes);
        check_path(path)?;
        let (path, query) = (Span::of(block, path), query.map(|query| Span::of(block, query)));
        return Ok(Target { form: TargetForm::Origin, whole, scheme: None, authority: nothing, path, query });
    }
    read_absolute(block, bytes, whole)
}

fn read_absolute(block: &[u8], bytes: &[u8], whole: Span) -> Result<Target, HeadError> {
    let colon = bytes.iter().position(|byte| *byte == b':').ok_or(HeadError::Target)?;
    let rest = bytes[colon + 1..].strip_prefix(b"//").ok_or(HeadError::Target)?;
    let scheme = match &bytes[..colon] {
        name if name.eq_ignore_ascii_case(b"http") => Scheme::Http,
        name if name.eq_ignore_ascii_case(b"https") => Scheme::Https,
        _ => return Err(HeadError::Scheme),
    };
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    if authority.contains(&b'@') {
        return Err(HeadError::UserInfo);
    }
    if authority.is_empty() || authority.contains(&b'\\') {
        return Err(HeadError::Target);
    }
    let (path, query) = split_query(rest);
    check_path(path)?;
    Ok(Target {
        form: TargetForm::Absolute,
        whole,
        scheme: Some(scheme),
        authority: Span::of(block, authority),
        path: Span::of(block, path),
        query: query.map(|query| Span::of(block, query)),
    })
}

fn split_query(bytes: &[u8]) -> (&[u8], Option<&[u8]>) {
    match bytes.iter().position(|byte| *byte == b'?') {
        Some(mark) => (&bytes[..mark], Some(&bytes[mark + 1..])),
        None => (bytes, None),
    }
}

/// A path must mean one thing to rule and upstream: no backslash (some servers take it for `/`), no broken escape, no
/// escaped NUL.
pub(super) fn check_path(path: &[u8]) -> Result<(), HeadError> {
    let mut rest = path;
    while let Some(found) = rest.iter().position(|byte| matches!(byte, b'%' | b'\\')) {
        match &rest[found..] {
            [b'%', b'0', b'0', ..] => return Err(HeadError::Target),
            [b'%', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                rest = &rest[found + 3..]
            }
            _ => return Err(HeadError::Target),
        }
    }
    Ok(())
}
