//! Writes values as TOML, YAML or JSON, so that what was written can be read again.

use std::fmt::Write as _;

use serde_json::Value;

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// TOML 1.0.
    Toml,
    /// YAML 1.2.
    Yaml,
    /// JSON, indented.
    Json,
}

/// Writes a value.
///
/// # Errors
/// When TOML cannot say it: parameters of handlers may hold `null`.
pub fn write(value: &Value, format: Format) -> Result<String, String> {
    match format {
        Format::Json => {
            serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|error| error.to_string())
        }
        Format::Yaml => Ok(yaml(value)),
        Format::Toml => toml::to_string_pretty(value)
            .map_err(|error| format!("TOML cannot say this ({error}); take -o yaml or -o json")),
    }
}

/// Writes YAML: names and plain words as they are, all other texts in quotes, as JSON writes them.
pub(super) fn yaml(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(_) | Value::Array(_) if !is_empty(value) => block(value, 0, &mut text),
        _ => {
            let _ = writeln!(text, "{}", inline(value));
        }
    }
    text
}

fn block(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                let _ = write!(out, "{:indent$}{}:", "", scalar(name));
                below(inner, indent + 2, out);
            }
        }
        Value::Array(items) => {
            for item in items {
                if let (Value::Object(_), false) = (item, is_empty(item)) {
                    // The first field stands behind the dash.
                    let mut inner = String::new();
                    block(item, indent + 2, &mut inner);
                    let _ = write!(out, "{:indent$}- {}", "", inner.trim_start());
                } else {
                    let _ = write!(out, "{:indent$}-", "");
                    below(item, indent + 2, out);
                }
            }
        }
        _ => {}
    }
}

/// What follows a colon or a dash.
fn below(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(_) | Value::Array(_) if !is_empty(value) => {
            out.push('\n');
            block(value, indent, out);
        }
        _ => {
            let _ = writeln!(out, " {}", inline(value));
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        other => other.to_string(),
    }
}

fn scalar(text: &str) -> String {
    let plain = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte));
    // Other readers take these for booleans or nothing.
    let special = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    if plain && !special.contains(&text.to_ascii_lowercase().as_str()) {
        return text.to_owned();
    }
    Value::from(text).to_string()
}
