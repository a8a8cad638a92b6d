//! Reads TOML.

use serde_json::Number;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Flaw;
use super::node::{Name, Node, Places, Value};

/// The one document of a text.
pub(super) fn read(text: &str) -> Result<Vec<Node>, Flaw> {
    let places = Places::new(text);
    let table = DeTable::parse(text).map_err(|error| Flaw {
        place: places.at(error.span().map_or(0, |span| span.start)),
        problem: error.message().to_owned(),
    })?;
    Ok(vec![Node { place: places.at(0), value: fields(table.get_ref(), &places)? }])
}

fn fields(table: &DeTable<'_>, places: &Places<'_>) -> Result<Value, Flaw> {
    let field = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let name: &std::borrow::Cow<'_, str> = key.get_ref();
        let name = Name { text: name.to_string(), place: places.at(key.span().start) };
        Ok((name, node(value, places)?))
    };
    table.iter().map(field).collect::<Result<_, _>>().map(Value::Map)
}

fn node(given: &Spanned<DeValue<'_>>, places: &Places<'_>) -> Result<Node, Flaw> {
    let place = places.at(given.span().start);
    let flaw = |problem: &str| Flaw { place, problem: problem.to_owned() };
    let value = match given.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(|number| Value::Number(number.into()))
            .map_err(|_| flaw("the number is too large"))?,
        DeValue::Float(number) => {
            let number = number.as_str().parse().ok().and_then(Number::from_f64);
            number.map(Value::Number).ok_or_else(|| flaw("policies have finite numbers only"))?
        }
        DeValue::Datetime(_) => return Err(flaw("policies hold no dates; write it as a text in quotes")),
        DeValue::Array(items) => {
            Value::List(items.iter().map(|item| node(item, places)).collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => fields(table, places)?,
    };
    Ok(Node { place, value })
}
