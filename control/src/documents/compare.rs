//! What becomes of a value, line by line.

use serde_json::Value;

use super::write::yaml;

/// Lines around a change that are shown.
const CONTEXT: usize = 2;
/// Cells of the table of common lines. Larger: one diff fills memory. Smaller: long documents are shown as replaced.
const CELLS_MAX: usize = 4 << 20;

/// A line of the one, the other, or both: `-`, `+` or a space, and its text. Between parts that are left out stands
/// a line of `…`. Nothing where both are the same.
pub fn compare(before: &Value, after: &Value) -> Vec<(char, String)> {
    let text = |value: &Value| if value.is_null() { String::new() } else { yaml(value) };
    let (before, after) = (text(before), text(after));
    let (one, other): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    shorten(&align(&one, &other))
}

fn align<'a>(one: &[&'a str], other: &[&'a str]) -> Vec<(char, &'a str)> {
    let same_front = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    let (front, one) = one.split_at(same_front);
    let other = &other[same_front..];
    let same_back = one.iter().rev().zip(other.iter().rev()).take_while(|(a, b)| a == b).count();
    let (one, back) = one.split_at(one.len() - same_back);
    let other = &other[..other.len() - same_back];
    let mut lines: Vec<(char, &str)> = front.iter().map(|line| (' ', *line)).collect();
    lines.extend(middle(one, other));
    lines.extend(back.iter().map(|line| (' ', *line)));
    lines
}

/// By the longest common subsequence.
fn middle<'a>(one: &[&'a str], other: &[&'a str]) -> Vec<(char, &'a str)> {
    let removed = |lines: &[&'a str]| lines.iter().map(|line| ('-', *line)).collect::<Vec<_>>();
    let added = |lines: &[&'a str]| lines.iter().map(|line| ('+', *line)).collect::<Vec<_>>();
    let width = other.len() + 1;
    if (one.len() + 1).saturating_mul(width) > CELLS_MAX {
        return [removed(one), added(other)].concat();
    }
    let mut common = vec![0_u32; (one.len() + 1) * width];
    for a in (0..one.len()).rev() {
        for b in (0..other.len()).rev() {
            common[a * width + b] = if one[a] == other[b] {
                common[(a + 1) * width + b + 1] + 1
            } else {
                common[(a + 1) * width + b].max(common[a * width + b + 1])
            };
        }
    }
    let (mut a, mut b, mut lines) = (0, 0, Vec::new());
    while a < one.len() && b < other.len() {
        if one[a] == other[b] {
            lines.push((' ', one[a]));
            (a, b) = (a + 1, b + 1);
        } else if common[(a + 1) * width + b] >= common[a * width + b + 1] {
            lines.push(('-', one[a]));
            a += 1;
        } else {
            lines.push(('+', other[b]));
            b += 1;
        }
    }
    lines.extend(removed(&one[a..]));
    lines.extend(added(&other[b..]));
    lines
}

/// Leaves out what is far from any change.
fn shorten(lines: &[(char, &str)]) -> Vec<(char, String)> {
    if lines.iter().all(|(sign, _)| *sign == ' ') {
        return Vec::new();
    }
    let near = |at: usize| {
        let (from, to) = (at.saturating_sub(CONTEXT), (at + CONTEXT + 1).min(lines.len()));
        lines[from..to].iter().any(|(sign, _)| *sign != ' ')
    };
    let mut kept: Vec<(char, String)> = Vec::new();
    for (at, (sign, text)) in lines.iter().enumerate() {
        if near(at) {
            kept.push((*sign, (*text).to_owned()));
        } else if kept.last().is_none_or(|(_, text)| text != "…") {
            kept.push((' ', "…".to_owned()));
        }
    }
    kept
}
