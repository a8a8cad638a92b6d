//! Reads JSON. Values are read level by level as the pieces of text that they are, which gives their places.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::Flaw;
use super::node::{Name, Node, Place, Places, Value};
use crate::limits::DOCUMENT_DEPTH_MAX;

/// The one document of a text.
pub(super) fn read(text: &str) -> Result<Vec<Node>, Flaw> {
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| flaw_of(&error))?;
    let places = Places::new(text);
    Ok(vec![Reader { text, places }.node(raw, 0)?])
}

fn flaw_of(error: &serde_json::Error) -> Flaw {
    let place = Place { line: error.line().max(1), column: error.column().max(1) };
    let told = error.to_string();
    // The place stands before it already.
    let problem = told.split(" at line ").next().unwrap_or(&told);
    Flaw { place, problem: format!("this is no JSON: {problem}") }
}

struct Reader<'a> {
    text: &'a str,
    places: Places<'a>,
}

impl<'a> Reader<'a> {
    fn offset(&self, raw: &'a RawValue) -> usize {
        (raw.get().as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize)
    }

    fn node(&self, raw: &'a RawValue, depth: usize) -> Result<Node, Flaw> {
        let place = self.places.at(self.offset(raw));
        if depth > DOCUMENT_DEPTH_MAX {
            let problem = format!("values lie more than {DOCUMENT_DEPTH_MAX} deep in each other");
            return Err(Flaw { place, problem });
        }
        let fault = |error: serde_json::Error| Flaw { place, problem: flaw_of(&error).problem };
        let text = raw.get();
        let value = match text.as_bytes().first() {
            Some(b'{') => {
                let entries: Entries<'a> = serde_json::from_str(text).map_err(fault)?;
                let mut fields: Vec<(Name, Node)> = Vec::with_capacity(entries.0.len());
                for (key, inner) in entries.0 {
                    let name = Name { place: self.places.at(self.key_before(self.offset(inner))), text: key };
                    if fields.iter().any(|(known, _)| known.text == name.text) {
                        let problem = format!("`{}` stands here twice; remove one", name.text);
                        return Err(Flaw { place: name.place, problem });
                    }
                    fields.push((name, self.node(inner, depth + 1)?));
                }
                Value::Map(fields)
            }
            Some(b'[') => {
                let items: Vec<&'a RawValue> = serde_json::from_str(text).map_err(fault)?;
                let items = items.into_iter().map(|item| self.node(item, depth + 1));
                Value::List(items.collect::<Result<_, _>>()?)
            }
            Some(b'"') => Value::Text(serde_json::from_str(text).map_err(fault)?),
            Some(b't' | b'f') => Value::Bool(serde_json::from_str(text).map_err(fault)?),
            Some(b'n') => Value::Null,
            _ => Value::Number(serde_json::from_str(text).map_err(fault)?),
        };
        Ok(Node { place, value })
    }

    /// Where the key of a value begins: before the colon before it, at a quote that no backslash escapes.
    fn key_before(&self, value: usize) -> usize {
        let before = self.text[..value].trim_end().trim_end_matches(':').trim_end();
        let inside = before.strip_suffix('"').unwrap_or(before);
        let opens = |at: &usize| {
            let slashes = inside[..*at].bytes().rev().take_while(|byte| *byte == b'\\').count();
            slashes.is_multiple_of(2)
        };
        inside.rmatch_indices('"').map(|(at, _)| at).find(opens).unwrap_or(value)
    }
}

/// The fields of one object, as they stand, twice if they do.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        reader.deserialize_map(Fields)
    }
}
