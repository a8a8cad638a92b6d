//! Header fields of requests and answers: reading, changing, and naming secrets that the gateway fills in.

use core::fmt;

use handlers_sdk_abi::field::{is_name, is_reserved, is_value, is_value_byte, same_name};
use handlers_sdk_abi::{ActionWriter, View, names};

/// A secret by name. The handler never sees its value; the gateway puts it in, over verified TLS, and only for hosts
/// to which the operator bound it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    name: String,
    prefix: String,
}

/// Names a secret.
///
/// # Panics
/// Where the name is none: ASCII letters, digits, `.`, `_`, `-`, `/`, `:`, at most 128.
#[track_caller]
pub fn secret(name: impl Into<String>) -> Secret {
    let name = name.into();
    assert!(names::is_name(name.as_bytes()), "{name:?} is not the name of a secret");
    Secret { name, prefix: String::new() }
}

impl Secret {
    /// Puts text before the value, such as `"token "`.
    ///
    /// # Panics
    /// Where the text holds a control byte.
    #[track_caller]
    pub fn prefixed(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        let plain = self.prefix.bytes().all(is_value_byte);
        assert!(plain, "the prefix of secret {:?} holds a control byte", self.name);
        self
    }
}

/// What a header can be set to: text, or a named secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Text.
    Text(String),
    /// A secret by name.
    Secret(Secret),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Self::Text(text.clone())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Secret> for Value {
    fn from(secret: Secret) -> Self {
        Self::Secret(secret)
    }
}

/// Why a header cannot be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// Not a header name.
    Name(String),
    /// The header belongs to the gateway: it frames the message or belongs to the connection.
    Reserved(String),
    /// The value of this header holds a control byte, or white space at an end, or is too long.
    Value(String),
    /// A secret for this header of a response: secrets go to upstreams, never to the sandbox.
    Secret(String),
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name:?} is not a header name"),
            Self::Reserved(name) => {
                write!(f, "header {name:?} belongs to the gateway; a handler cannot change it")
            }
            Self::Value(name) => {
                write!(f, "the value for header {name:?} holds a control byte or outer white space")
            }
            Self::Secret(name) => write!(f, "header {name:?} of a response cannot carry a secret"),
        }
    }
}

impl std::error::Error for HeaderError {}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Edit {
    Set(String, Value),
    Append(String, String),
    Remove(String),
}

impl Edit {
    fn name(&self) -> &str {
        match self {
            Self::Set(name, _) | Self::Append(name, _) | Self::Remove(name) => name,
        }
    }
}

/// The header fields of a request or an answer as they will be sent.
#[derive(Clone, Debug)]
pub struct Headers {
    view: View<'static>,
    edits: Vec<Edit>,
    /// They go to the upstream, so they may carry secrets.
    to_upstream: bool,
}

impl Headers {
    pub(crate) fn new(view: View<'static>) -> Self {
        Self { view, edits: Vec::new(), to_upstream: true }
    }

    pub(crate) fn of_response(view: View<'static>) -> Self {
        Self { view, edits: Vec::new(), to_upstream: false }
    }

    /// The first value of a name. Nothing where there is none, where it is not text, or where it is a secret.
    pub fn get(&self, name: &str) -> Option<&str> {
        core::str::from_utf8(self.get_bytes(name)?).ok()
    }

    /// The first value of a name as bytes.
    pub fn get_bytes(&self, name: &str) -> Option<&[u8]> {
        let mut current = self.view.field(name);
        for edit in self.edits.iter().filter(|edit| same_name(edit.name().as_bytes(), name.as_bytes())) {
            current = match edit {
                Edit::Set(_, Value::Text(text)) => Some(text.as_bytes()),
                Edit::Append(_, text) => current.or(Some(text.as_bytes())),
                Edit::Set(_, Value::Secret(_)) | Edit::Remove(_) => None,
            };
        }
        current
    }

    /// Whether a field of a name will be sent.
    pub fn contains(&self, name: &str) -> bool {
        let last = self.edits.iter().rfind(|edit| same_name(edit.name().as_bytes(), name.as_bytes()));
        match last {
            Some(edit) => !matches!(edit, Edit::Remove(_)),
            None => self.view.field(name).is_some(),
        }
    }

    /// The fields as received, in order, names in lower case; changes are not in it.
    pub fn received(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.view.fields().map(|field| (core::str::from_utf8(field.name).unwrap_or_default(), field.value))
    }

    /// Replaces every field of a name.
    ///
    /// # Panics
    /// As [`try_set`](Self::try_set) fails; the gateway's log names the line.
    #[track_caller]
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        if let Err(error) = self.try_set(name, value) {
            panic!("{error}");
        }
    }

    /// Replaces every field of a name.
    ///
    /// # Errors
    /// Where name or value cannot be sent, or the header belongs to the gateway.
    pub fn try_set(&mut self, name: &str, value: impl Into<Value>) -> Result<(), HeaderError> {
        let value = value.into();
        check_name(name)?;
        match &value {
            Value::Text(text) => check_value(name, text)?,
            Value::Secret(_) if self.to_upstream => {}
            Value::Secret(_) => return Err(HeaderError::Secret(name.to_owned())),
        }
        self.edits.push(Edit::Set(name.to_owned(), value));
        Ok(())
    }

    /// Adds a field beside those of its name.
    ///
    /// # Panics
    /// Where name or value cannot be sent, or the header belongs to the gateway.
    #[track_caller]
    pub fn append(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        if let Err(error) = check_name(name).and_then(|()| check_value(name, &value)) {
            panic!("{error}");
        }
        self.edits.push(Edit::Append(name.to_owned(), value));
    }

    /// Removes every field of a name.
    ///
    /// # Panics
    /// Where the name is none, or the header belongs to the gateway.
    #[track_caller]
    pub fn remove(&mut self, name: &str) {
        if let Err(error) = check_name(name) {
            panic!("{error}");
        }
        self.edits.push(Edit::Remove(name.to_owned()));
    }

    /// Sets `authorization` to `Bearer` and a token or secret (RFC 6750 §2.1).
    ///
    /// # Panics
    /// Where the token cannot be sent.
    #[track_caller]
    pub fn bearer(&mut self, token: impl Into<Value>) {
        match token.into() {
            Value::Text(token) => self.set("authorization", format!("Bearer {token}")),
            Value::Secret(secret) => self.set("authorization", secret.prefixed("Bearer ")),
        }
    }

    pub(crate) fn write(&self, list: &mut ActionWriter) {
        for edit in &self.edits {
            match edit {
                Edit::Set(name, Value::Text(text)) => list.set(name.as_bytes(), text.as_bytes()),
                Edit::Set(name, Value::Secret(secret)) => {
                    list.set_secret(name.as_bytes(), secret.prefix.as_bytes(), &secret.name);
                }
                Edit::Append(name, text) => list.append(name.as_bytes(), text.as_bytes()),
                Edit::Remove(name) => list.remove(name.as_bytes()),
            }
        }
    }
}

pub(crate) fn check_name(name: &str) -> Result<(), HeaderError> {
    if !is_name(name.as_bytes()) {
        return Err(HeaderError::Name(name.to_owned()));
    }
    if is_reserved(name.as_bytes()) { Err(HeaderError::Reserved(name.to_owned())) } else { Ok(()) }
}

pub(crate) fn check_value(name: &str, value: &str) -> Result<(), HeaderError> {
    if is_value(value.as_bytes()) { Ok(()) } else { Err(HeaderError::Value(name.to_owned())) }
}
