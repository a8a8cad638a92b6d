//! From a tree to a type: what does not fit is told at its place, with the name that was meant.

use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

use super::Flaw;
use super::node::{Node, Step, Value};

/// Reads a type from a tree.
///
/// # Errors
/// With the first field that does not fit, by its place.
pub(super) fn fit<T: DeserializeOwned>(node: &Node, what: &str) -> Result<T, Flaw> {
    // A list would be read as the fields in their order.
    node.fields(what)?;
    serde_path_to_error::deserialize(node.json()).map_err(|error| {
        let mut steps: Vec<Step> = error.path().iter().filter_map(step).collect();
        let problem = error.inner().to_string();
        if let Some(unknown) = quoted(&problem).next().filter(|_| problem.starts_with("unknown field")) {
            // The path ends before or at the field, depending on who reads it.
            if steps.last() != Some(&Step::Key(unknown.to_owned())) {
                steps.push(Step::Key(unknown.to_owned()));
            }
            return Flaw { place: node.place_of(&steps), problem: suggest(&problem) };
        }
        let place = node.place_of(&steps);
        match steps.last() {
            Some(Step::Key(field)) => Flaw { place, problem: format!("`{field}`: {problem}") },
            _ => Flaw { place, problem },
        }
    })
}

fn step(segment: &Segment) -> Option<Step> {
    match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } => Some(Step::Key(key.clone())),
        Segment::Enum { variant } => Some(Step::Key(variant.clone())),
        Segment::Unknown => None,
    }
}

/// The words between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The same words, and in place of a long list of fields the one that was meant, where there is one.
pub(super) fn suggest(problem: &str) -> String {
    let mut words = quoted(problem);
    let unknown = words.next().unwrap_or_default();
    let near = words.map(|known| (distance(unknown, known), known)).min();
    match near {
        Some((distance, known)) if distance <= 1 + unknown.chars().count() / 4 => {
            format!("unknown field `{unknown}`; did you mean `{known}`?")
        }
        _ => problem.to_owned(),
    }
}

/// Letters to insert, remove or replace, whatever their case.
fn distance(one: &str, other: &str) -> usize {
    let fold = |text: &str| text.to_lowercase().replace(['_', '-'], "").chars().collect::<Vec<_>>();
    let (one, other) = (fold(one), fold(other));
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (to, meant) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != meant);
            diagonal = row[to + 1];
            row[to + 1] = replaced.min(row[to] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

/// An element of a list of texts, or a flaw that does not quote it.
pub(super) fn texts(node: &Node, problem: &str) -> Result<Vec<String>, Flaw> {
    let flaw = |node: &Node| Flaw { place: node.place, problem: problem.to_owned() };
    let Value::List(items) = &node.value else { return Err(flaw(node)) };
    let text = |item: &Node| match &item.value {
        Value::Text(text) => Ok(text.clone()),
        _ => Err(flaw(item)),
    };
    items.iter().map(text).collect()
}
