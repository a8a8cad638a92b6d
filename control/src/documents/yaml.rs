//! Reads YAML 1.2: its core schema, anchors within bounds, no tags.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span};
use serde_json::Number;

use super::Flaw;
use super::node::{Name, Node, Place, Value};
use crate::limits::{DOCUMENT_DEPTH_MAX, DOCUMENT_NODES_MAX};

/// Every document of a text; empty ones are left out.
pub(super) fn read(text: &str) -> Result<Vec<Node>, Flaw> {
    let mut reader = Reader { parser: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0 };
    let mut documents = Vec::new();
    while let Some((event, span)) = reader.next()? {
        match event {
            Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            Event::StreamEnd => break,
            event => documents.push(reader.node(event, span, 0)?),
        }
    }
    documents.retain(|document| document.value != Value::Null);
    Ok(documents)
}

struct Reader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    /// Made so far, copies through anchors too.
    nodes: usize,
}

fn place(marker: &Marker) -> Place {
    Place { line: marker.line(), column: marker.col() + 1 }
}

fn flaw<T>(span: &Span, problem: impl Into<String>) -> Result<T, Flaw> {
    Err(Flaw { place: place(&span.start), problem: problem.into() })
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, Flaw> {
        self.parser.next().transpose().map_err(|error| Flaw {
            place: place(error.marker()),
            problem: format!("this is no YAML: {}", error.info()),
        })
    }

    /// The event that must come next.
    fn inner(&mut self, outer: &Span) -> Result<(Event<'a>, Span), Flaw> {
        self.next()?.map_or_else(|| flaw(outer, "the text ends within this value"), Ok)
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Flaw> {
        if depth > DOCUMENT_DEPTH_MAX {
            return flaw(&span, format!("values lie more than {DOCUMENT_DEPTH_MAX} deep in each other"));
        }
        self.count(1, &span)?;
        let (anchor, value) = match event {
            Event::Alias(anchor) => return self.alias(anchor, &span),
            Event::Scalar(_, _, _, Some(tag))
            | Event::SequenceStart(_, Some(tag))
            | Event::MappingStart(_, Some(tag)) => {
                return flaw(
                    &span,
                    format!("tags like `{}{}` are not read; remove it", tag.handle, tag.suffix),
                );
            }
            Event::Scalar(text, ScalarStyle::Plain, anchor, None) => (anchor, resolve(&text)),
            Event::Scalar(text, _, anchor, None) => (anchor, Value::Text(text.into_owned())),
            Event::SequenceStart(anchor, None) => (anchor, self.list(&span, depth)?),
            Event::MappingStart(anchor, None) => (anchor, self.map(&span, depth)?),
            _ => return flaw(&span, "a value is missing here"),
        };
        let node = Node { place: place(&span.start), value };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn count(&mut self, nodes: usize, span: &Span) -> Result<(), Flaw> {
        self.nodes += nodes;
        match self.nodes {
            nodes if nodes > DOCUMENT_NODES_MAX => {
                flaw(span, format!("the file holds more than {DOCUMENT_NODES_MAX} values; split it"))
            }
            _ => Ok(()),
        }
    }

    fn alias(&mut self, anchor: usize, span: &Span) -> Result<Node, Flaw> {
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            return flaw(span, "names an anchor that holds itself, or none");
        };
        // Anchors of anchors grow without bound.
        self.count(size(&node), span)?;
        Ok(Node { place: place(&span.start), ..node })
    }

    fn list(&mut self, outer: &Span, depth: usize) -> Result<Value, Flaw> {
        let mut items = Vec::new();
        loop {
            match self.inner(outer)? {
                (Event::SequenceEnd, _) => return Ok(Value::List(items)),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, outer: &Span, depth: usize) -> Result<Value, Flaw> {
        let mut fields: Vec<(Name, Node)> = Vec::new();
        loop {
            let name = match self.inner(outer)? {
                (Event::MappingEnd, _) => return Ok(Value::Map(fields)),
                (Event::Scalar(text, _, 0, None), span) => {
                    Name { text: text.into_owned(), place: place(&span.start) }
                }
                (_, span) => return flaw(&span, "a name of a field is a plain text"),
            };
            if fields.iter().any(|(known, _)| known.text == name.text) {
                let problem = format!("`{}` stands here twice; remove one", name.text);
                return Err(Flaw { place: name.place, problem });
            }
            let (event, span) = self.inner(outer)?;
            let node = self.node(event, span, depth + 1)?;
            fields.push((name, node));
        }
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.value {
        Value::List(items) => items.iter().map(size).sum(),
        Value::Map(fields) => fields.iter().map(|(_, node)| size(node)).sum(),
        _ => 0,
    }
}

/// What a scalar without quotes is (YAML 1.2.2 §10.3.2). `yes`, `no`, `on` and `off` are texts.
fn resolve(text: &str) -> Value {
    let prefixed =
        |prefix, radix| text.strip_prefix(prefix).and_then(|digits| i64::from_str_radix(digits, radix).ok());
    let numeric = text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first));
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ if !numeric => Value::Text(text.to_owned()),
        _ => {
            let integer = text.parse::<i64>().ok().or(prefixed("0x", 16)).or(prefixed("0o", 8));
            let float = || text.parse().ok().and_then(Number::from_f64);
            match integer.map(Number::from).or_else(float) {
                Some(number) => Value::Number(number),
                None => Value::Text(text.to_owned()),
            }
        }
    }
}
