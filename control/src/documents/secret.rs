//! Secrets in files: by reference only. Nothing here quotes a value, not even one that stands where none may.

use std::io::Read;
use std::path::Path;

use control_wire::limits::SECRET_BYTES_MAX;
use serde_json::{Map, Value as Json};
use zeroize::Zeroizing;

use super::Flaw;
use super::fit::{suggest, texts};
use super::node::{Node, Value};

const FORMS: &str = "write value = { env = \"NAME\" } or value = { file = \"PATH\" }";

/// The body of a secret, its value read from where the file says.
pub(super) fn read(node: &Node, folder: &Path) -> Result<Json, Flaw> {
    let mut body = Map::new();
    for (name, field) in node.fields("a secret")? {
        let place = name.place;
        let value = match name.text.as_str() {
            "value" => resolve(field, folder).map_err(|problem| Flaw { place, problem })?.as_str().into(),
            "hosts" => texts(field, "`hosts` is a list of host patterns")?.into(),
            "allowPlaintext" => match &field.value {
                Value::Bool(value) => (*value).into(),
                _ => return Err(Flaw { place, problem: "`allowPlaintext` is true or false".into() }),
            },
            other => {
                let problem = suggest(&format!(
                    "unknown field `{other}`, expected `value`, `hosts` or `allowPlaintext`"
                ));
                return Err(Flaw { place, problem });
            }
        };
        body.insert(name.text.clone(), value);
    }
    if !body.contains_key("hosts") {
        let problem =
            "`hosts` is missing; name the hosts that may receive the secret, like [\"api.github.com\"]";
        return Err(Flaw { place: node.place, problem: problem.into() });
    }
    Ok(body.into())
}

fn resolve(node: &Node, folder: &Path) -> Result<Zeroizing<String>, String> {
    let fields = match &node.value {
        Value::Map(fields) => fields,
        Value::Null => {
            return Err(format!("`value` is empty; {FORMS}, or leave it away to keep the one that is there"));
        }
        _ => {
            return Err(format!(
                "`value` holds the secret itself, and such a file is copied, committed and read by many; {FORMS}"
            ));
        }
    };
    let [(name, Node { value: Value::Text(from), .. })] = fields.as_slice() else {
        return Err(format!("`value` has one field, which is a text; {FORMS}"));
    };
    let value = match name.text.as_str() {
        "env" => from_environment(from)?,
        "file" => from_file(&folder.join(from))?,
        _ => return Err(format!("`value` is read from `env` or `file`; {FORMS}")),
    };
    match value.len() {
        1..=SECRET_BYTES_MAX => Ok(value),
        0 => Err(format!("`value`: {from} is empty")),
        _ => Err(format!("`value`: {from} holds more than {SECRET_BYTES_MAX} bytes")),
    }
}

fn from_environment(name: &str) -> Result<Zeroizing<String>, String> {
    match std::env::var(name) {
        Ok(value) => Ok(Zeroizing::new(value)),
        Err(std::env::VarError::NotPresent) => {
            Err(format!("`value`: the variable {name} is not set; set it for this command"))
        }
        Err(std::env::VarError::NotUnicode(_)) => Err(format!("`value`: the variable {name} is not UTF-8")),
    }
}

/// One newline at the end is the editor's and not part of the value.
fn from_file(path: &Path) -> Result<Zeroizing<String>, String> {
    let mut value = Zeroizing::new(String::new());
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(SECRET_BYTES_MAX as u64 + 2).read_to_string(&mut value));
    read.map_err(|error| format!("`value`: cannot read {}: {error}", path.display()))?;
    if value.ends_with('\n') {
        value.pop();
    }
    Ok(value)
}
