//! An answer's head while it is edited: status and fields of its own, and what the edits mean for the framing.

use std::{borrow::Cow, ops::Deref};

use super::{
    edit::{DIGESTS, EditError, FieldName, FieldValue},
    fields::{Fields, Value},
    head::{Field, Framing, ResponseHead},
    parse::same_field,
};

/// The head of an upstream's answer, taken apart so that it can be edited. What belongs to one hop is gone already, and
/// how the body is framed towards the client is for whoever writes it, by the client's version.
#[derive(Clone)]
pub struct AnswerParts {
    status: u16,
    reason: Vec<u8>,
    fields: Fields<'static>,
    framing: Framing,
    upgrade: Option<Vec<u8>>,
    changed: bool,
}

impl AnswerParts {
    /// The parts of a head.
    ///
    /// # Errors
    /// [`EditError::Value`] where a value could not be written again.
    pub fn of<B: Deref<Target = [u8]>>(head: &ResponseHead<B>) -> Result<Self, EditError> {
        let mut fields = Fields::end_to_end(head.fields());
        fields.remove(b"alt-svc");
        let owned = fields.iter().map(|field| {
            let value = FieldValue::new(field.value)?;
            Ok((Cow::Owned(field.name.to_vec()), Value::Written(value)))
        });
        let fields = Fields(owned.collect::<Result<_, EditError>>()?);
        let (status, framing, reason) = (head.status(), head.framing(), head.reason().to_vec());
        let upgrade = head.field("upgrade").filter(|_| framing == Framing::Tunnel).map(<[u8]>::to_vec);
        Ok(Self { status, reason, fields, framing, upgrade, changed: false })
    }

    /// The status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// How the body will be framed towards a client that knows every framing.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// The protocol that the connection changes to.
    pub fn upgrade(&self) -> Option<&[u8]> {
        self.upgrade.as_deref()
    }

    /// Whether an edit changed anything.
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// All fields in their order.
    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        self.fields.iter()
    }

    /// The first value of that name.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields
            .0
            .iter()
            .find(|(given, _)| given.eq_ignore_ascii_case(name.as_bytes()))
            .map(|f| f.1.bytes())
    }

    /// Gives another status to an answer that is not interim and agrees to no other protocol. Where the new one allows
    /// no body (RFC 9110 §6.4.1), none is sent.
    ///
    /// # Errors
    /// [`EditError::Status`].
    pub fn set_status(&mut self, status: u16) -> Result<(), EditError> {
        if !(200..=599).contains(&status) || self.status < 200 {
            return Err(EditError::Status);
        }
        let bodiless = |status| matches!(status, 204 | 304);
        if bodiless(status) {
            self.framing = Framing::None;
            self.fields.remove(b"content-length");
        } else if bodiless(self.status) {
            self.framing = Framing::Length(0);
        }
        (self.status, self.changed) = (status, true);
        self.reason.clear();
        Ok(())
    }

    /// Gives the field this value in place of every field of that name, `_` and `-` being the same.
    pub fn set(&mut self, name: FieldName, value: FieldValue) {
        self.fields.replace(Cow::Owned(name.into_bytes()), Value::Written(value));
        self.changed = true;
    }

    /// Adds a field behind all others.
    pub fn append(&mut self, name: FieldName, value: FieldValue) {
        self.fields.0.push((Cow::Owned(name.into_bytes()), Value::Written(value)));
        self.changed = true;
    }

    /// Removes every field of that name, `_` and `-` being the same.
    pub fn remove(&mut self, name: &FieldName) {
        self.fields.remove(name.bytes());
        self.changed = true;
    }

    /// Gives every value that `edit` answers in the place of what it was shown. Framing is not shown.
    ///
    /// # Errors
    /// [`EditError::Value`] where an answer is no value of a field.
    pub fn edit_values(
        &mut self,
        mut edit: impl FnMut(Field<'_>) -> Option<Vec<u8>>,
    ) -> Result<(), EditError> {
        for (name, value) in &mut self.fields.0 {
            let framing =
                [&b"content-length"[..], b"transfer-encoding"].iter().any(|own| same_field(name, own));
            let shown = Field { name, value: value.bytes() };
            if let Some(edited) = (!framing).then(|| edit(shown)).flatten() {
                *value = Value::Written(FieldValue::new(&edited)?);
                self.changed = true;
            }
        }
        Ok(())
    }

    /// Says that the body will not be what the upstream sends: its length is not known, and digests of it are removed.
    /// A body that is not sent stays so.
    pub fn change_body(&mut self) {
        if self.framing == Framing::Tunnel {
            return;
        }
        if self.framing != Framing::None {
            self.framing = Framing::Chunked;
        }
        self.fields.remove(b"content-length");
        DIGESTS.iter().for_each(|name| self.fields.remove(name));
        self.changed = true;
    }

    /// Sends no reason phrase.
    pub fn drop_reason(&mut self) {
        self.reason.clear();
        self.changed = true;
    }

    /// The reason phrase.
    pub fn reason(&self) -> &[u8] {
        &self.reason
    }

    pub(super) fn sent_fields(&self) -> Fields<'_> {
        Fields(
            self.fields.iter().map(|field| (Cow::Borrowed(field.name), Value::Sent(field.value))).collect(),
        )
    }
}
