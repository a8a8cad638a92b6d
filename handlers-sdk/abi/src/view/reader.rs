//! The reader of request views, used by guests.

use super::{ENTRY_BYTES, Field, HEAD_BYTES, IDS_AT, IDS_BYTES, Label, MethodId, UNKNOWN_LENGTH, ViewError};
use crate::ABI_VERSION;
use crate::bytes::{span, u16_at, u32_at, u64_at};
use crate::field::Known;
use crate::limits::{VIEW_BYTES_MAX, VIEW_FIELDS_MAX, VIEW_LABELS_MAX};

/// A view, read: every span is checked once, by [`View::parse`].
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    bytes: &'a [u8],
    texts: [&'a str; 8],
    query: Option<&'a str>,
    entries_at: usize,
    fields: usize,
    labels_at: usize,
    labels: usize,
}

impl<'a> View<'a> {
    /// Checks a view whole.
    ///
    /// # Errors
    /// Where it is truncated, of another version, beyond a bound, or names spans outside itself.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ViewError> {
        let total = u32_at(bytes, 0).ok_or(ViewError::Truncated(0))? as usize;
        if total > VIEW_BYTES_MAX {
            return Err(ViewError::TooLong(total));
        }
        let bytes = bytes.get(..total).ok_or(ViewError::Truncated(0))?;
        if total < HEAD_BYTES {
            return Err(ViewError::Truncated(0));
        }
        let number = |at| u32_at(bytes, at).map(|n| n as usize).ok_or(ViewError::Truncated(at));
        let version = u16_at(bytes, 4).ok_or(ViewError::Truncated(4))?;
        if version != ABI_VERSION {
            return Err(ViewError::Version(version));
        }
        let fields = usize::from(u16_at(bytes, 8).ok_or(ViewError::Truncated(8))?);
        let (labels_at, labels, entries_at) = (number(112)?, number(116)?, number(124)?);
        if fields > VIEW_FIELDS_MAX {
            return Err(ViewError::TooManyFields(fields));
        }
        if labels > VIEW_LABELS_MAX {
            return Err(ViewError::TooManyLabels(labels));
        }
        if entries_at < HEAD_BYTES {
            return Err(ViewError::Truncated(124));
        }
        let mut texts = [""; 8];
        for (text, at) in texts.iter_mut().zip([48, 56, 64, 80, 88, 96, 104, 192]) {
            *text = text_at(bytes, at)?;
        }
        let query = if number(72)? == 0 { None } else { Some(text_at(bytes, 72)?) };
        let view = Self { bytes, texts, query, entries_at, fields, labels_at, labels };
        view.check_entries()?;
        Ok(view)
    }

    fn check_entries(&self) -> Result<(), ViewError> {
        for index in 0..self.fields {
            let at = self.entries_at + ENTRY_BYTES * index;
            span_at(self.bytes, at)?;
            span_at(self.bytes, at + 8)?;
        }
        for index in 0..self.labels {
            let at = self.labels_at + ENTRY_BYTES * index;
            text_at(self.bytes, at)?;
            text_at(self.bytes, at + 8)?;
        }
        match self.bytes[IDS_AT..IDS_AT + IDS_BYTES].iter().position(|id| usize::from(*id) > self.fields) {
            Some(id) => Err(ViewError::Truncated(IDS_AT + id)),
            None => Ok(()),
        }
    }

    /// Bits of [`flags`](super::flags).
    pub fn flags(&self) -> u16 {
        u16_at(self.bytes, 6).unwrap_or_default()
    }

    /// Port of the authority.
    pub fn port(&self) -> u16 {
        u16_at(self.bytes, 10).unwrap_or_default()
    }

    /// Number of the method.
    pub fn method_id(&self) -> MethodId {
        MethodId(self.bytes[12])
    }

    /// 10, 11 or 20.
    pub fn http_version(&self) -> u8 {
        self.bytes[13]
    }

    /// Status of a response's view, 0 in a request's.
    pub fn status(&self) -> u16 {
        u16_at(self.bytes, 14).unwrap_or_default()
    }

    /// Length of the body where it is known.
    pub fn body_bytes(&self) -> Option<u64> {
        u64_at(self.bytes, 16).filter(|len| *len != UNKNOWN_LENGTH)
    }

    /// Unix milliseconds.
    pub fn now_ms(&self) -> u64 {
        u64_at(self.bytes, 24).unwrap_or_default()
    }

    /// Random bytes of this event.
    pub fn random(&self) -> [u8; 16] {
        self.bytes[32..48].try_into().unwrap_or_default()
    }

    /// Method.
    pub fn method(&self) -> &'a str {
        self.texts[0]
    }

    /// Host without port.
    pub fn host(&self) -> &'a str {
        self.texts[1]
    }

    /// Path without query.
    pub fn path(&self) -> &'a str {
        self.texts[2]
    }

    /// Query without its question mark.
    pub fn query(&self) -> Option<&'a str> {
        self.query
    }

    /// The sandbox's id.
    pub fn container_id(&self) -> &'a str {
        self.texts[3]
    }

    /// The sandbox's template.
    pub fn class_name(&self) -> &'a str {
        self.texts[4]
    }

    /// Id of this request.
    pub fn request_id(&self) -> &'a str {
        self.texts[5]
    }

    /// Trace context, empty where there is none.
    pub fn traceparent(&self) -> &'a str {
        self.texts[6]
    }

    /// The handler's name.
    pub fn handler(&self) -> &'a str {
        self.texts[7]
    }

    /// Revision of the snapshot that decided.
    pub fn revision(&self) -> u64 {
        u64_at(self.bytes, 200).unwrap_or_default()
    }

    /// How often the handler may still suspend.
    pub fn suspensions_left(&self) -> u32 {
        u32_at(self.bytes, 120).unwrap_or_default()
    }

    /// Header fields in order, names in lower case.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = Field<'a>> + use<'a> {
        let view = *self;
        (0..self.fields).map(move |index| view.field_at(index))
    }

    /// Labels of the sandbox.
    pub fn labels(&self) -> impl ExactSizeIterator<Item = Label<'a>> + use<'a> {
        let view = *self;
        (0..self.labels).map(move |index| {
            let at = view.labels_at + ENTRY_BYTES * index;
            let text = |at| text_at(view.bytes, at).unwrap_or_default();
            Label { name: text(at), value: text(at + 8) }
        })
    }

    /// Value of the first well-known field of an id.
    pub fn known(&self, known: Known) -> Option<&'a [u8]> {
        let index = usize::from(self.bytes[IDS_AT + usize::from(known.id())]).checked_sub(1)?;
        Some(self.field_at(index).value)
    }

    /// Value of the first field of a name, whatever its case.
    pub fn field(&self, name: &str) -> Option<&'a [u8]> {
        match Known::of(name.as_bytes()) {
            Some(known) => self.known(known),
            None => self
                .fields()
                .find(|field| field.name.eq_ignore_ascii_case(name.as_bytes()))
                .map(|field| field.value),
        }
    }

    fn field_at(&self, index: usize) -> Field<'a> {
        let at = self.entries_at + ENTRY_BYTES * index;
        let read = |at| span_at(self.bytes, at).unwrap_or_default();
        Field { name: read(at), value: read(at + 8) }
    }
}

fn span_at(bytes: &[u8], at: usize) -> Result<&[u8], ViewError> {
    let (Some(from), Some(len)) = (u32_at(bytes, at), at.checked_add(4).and_then(|at| u32_at(bytes, at)))
    else {
        return Err(ViewError::Truncated(at));
    };
    span(bytes, from as usize, len as usize).ok_or(ViewError::Truncated(at))
}

fn text_at(bytes: &[u8], at: usize) -> Result<&str, ViewError> {
    core::str::from_utf8(span_at(bytes, at)?).map_err(|_| ViewError::NotText(at))
}
