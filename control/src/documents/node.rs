//! A value with the place where it stands, whatever the format.

use serde_json::{Map, Number};

use super::Flaw;

/// A place in a text; both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// A name of a field, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Name {
    /// The name.
    pub text: String,
    /// Where it stands.
    pub place: Place,
}

/// A value, and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it begins.
    pub place: Place,
    /// The value.
    pub value: Value,
}

/// What stands in a text.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// Fields, in the order written where the format keeps it; no name stands twice.
    Map(Vec<(Name, Node)>),
}

/// One step on the way to a value inside another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Into a field.
    Key(String),
    /// Into an element.
    Index(usize),
}

impl Node {
    /// The value without its places.
    pub fn json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Number(number) => number.clone().into(),
            Value::Text(text) => text.as_str().into(),
            Value::List(items) => items.iter().map(Self::json).collect(),
            Value::Map(fields) => {
                let fields = fields.iter().map(|(name, node)| (name.text.clone(), node.json()));
                fields.collect::<Map<_, _>>().into()
            }
        }
    }

    /// The place of a value inside, or of the nearest that holds it: fields by their name, elements where they begin.
    pub fn place_of(&self, steps: &[Step]) -> Place {
        let (mut node, mut place) = (self, self.place);
        for step in steps {
            let found = match (step, &node.value) {
                (Step::Key(key), Value::Map(fields)) => {
                    fields.iter().find(|(name, _)| name.text == *key).map(|(name, inner)| (inner, name.place))
                }
                (Step::Index(at), Value::List(items)) => items.get(*at).map(|item| (item, item.place)),
                _ => None,
            };
            let Some((inner, at)) = found else { break };
            (node, place) = (inner, at);
        }
        place
    }

    /// The fields.
    ///
    /// # Errors
    /// When it is something else.
    pub fn fields(&self, what: &str) -> Result<&[(Name, Node)], Flaw> {
        match &self.value {
            Value::Map(fields) => Ok(fields),
            _ => Err(Flaw { place: self.place, problem: format!("{what} has fields, and this has none") }),
        }
    }
}

/// The steps of a path as errors write it, like `rules[0].actions[1].deny`.
pub fn steps(field: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for part in field.split('.').filter(|part| !part.is_empty()) {
        let mut pieces = part.split('[');
        steps.extend(pieces.next().filter(|key| !key.is_empty()).map(|key| Step::Key(key.to_owned())));
        steps.extend(pieces.filter_map(|piece| piece.trim_end_matches(']').parse().ok().map(Step::Index)));
    }
    steps
}

/// Finds places from offsets in bytes.
pub(super) struct Places<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Places<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { text, starts: std::iter::once(0).chain(ends).collect() }
    }

    pub(super) fn at(&self, offset: usize) -> Place {
        let line = self.starts.partition_point(|start| *start <= offset).max(1);
        let before = self.text.get(self.starts[line - 1]..offset).unwrap_or_default();
        Place { line, column: before.chars().count() + 1 }
    }
}
