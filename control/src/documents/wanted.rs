//! What files want to be so: every row once, checked as far as it can be without control.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use control_wire::policy::{Labels, PolicyDocument};
use control_wire::validate::DocumentError;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use super::fit::{fit, suggest};
use super::node::{Node, Place, Step, steps};
use super::{Fault, Flaw, secret};
use crate::limits::BODY_BYTES_MAX;
use crate::tables::Kind;

/// Where a row stands.
struct Row {
    file: PathBuf,
    place: Place,
    node: Node,
}

/// Everything that files declare.
#[derive(Default)]
pub struct Wanted {
    rows: BTreeMap<(Kind, String), Row>,
    bodies: BTreeMap<(Kind, String), Json>,
    faults: Vec<Fault>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct SandboxFields {
    template: String,
    #[serde(default)]
    overrides: PolicyDocument,
    #[serde(default)]
    labels: Labels,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HandlerFields {
    file: Option<PathBuf>,
    module: Option<String>,
}

/// The section of a kind.
pub(super) fn section(kind: Kind) -> &'static str {
    match kind {
        Kind::Template => "templates",
        Kind::Sandbox => "sandboxes",
        Kind::Handler => "handlers",
        Kind::Secret => "secrets",
    }
}

impl Wanted {
    /// Takes what one document declares.
    pub(super) fn take(&mut self, file: &Path, document: Node) {
        if let Err(flaw) = self.take_sections(file, document) {
            self.blame(file, flaw);
        }
    }

    pub(super) fn blame(&mut self, file: &Path, flaw: Flaw) {
        self.faults.push(Fault { file: file.to_owned(), place: Some(flaw.place), problem: flaw.problem });
    }

    fn take_sections(&mut self, file: &Path, document: Node) -> Result<(), Flaw> {
        for (name, rows) in document.fields("a file of policies")? {
            let Some(kind) = Kind::ALL.into_iter().find(|kind| section(*kind) == name.text) else {
                return Err(Flaw { place: name.place, problem: unknown_section(&name.text) });
            };
            for (name, node) in rows.fields(section(kind))? {
                let key = (kind, name.text.clone());
                if let Some(known) = self.rows.get(&key) {
                    let (kind, name_text) = (kind.name(), &name.text);
                    let (file, line) = (known.file.display(), known.place.line);
                    let problem =
                        format!("{kind} {name_text} stands in {file}, line {line} already; remove one");
                    return Err(Flaw { place: name.place, problem });
                }
                match body(kind, node, file.parent().unwrap_or(Path::new(""))) {
                    Ok(body) => drop(self.bodies.insert(key.clone(), body)),
                    Err(mut flaw) => {
                        flaw.problem = format!("{} {}: {}", kind.name(), name.text, flaw.problem);
                        self.blame(file, flaw);
                    }
                }
                let (file, node) = (file.to_owned(), node.clone());
                self.rows.insert(key, Row { file, place: name.place, node });
            }
        }
        Ok(())
    }

    /// The call that makes it so.
    ///
    /// # Errors
    /// With everything that is wrong, in the order of the files.
    pub fn call(&self) -> Result<Json, Vec<Fault>> {
        if !self.faults.is_empty() {
            return Err(self.faults.clone());
        }
        let rows = |kind: Kind| -> Map<String, Json> {
            let ours = self.bodies.iter().filter(|((of, _), _)| *of == kind);
            ours.map(|((_, name), body)| (name.clone(), body.clone())).collect()
        };
        Ok(Kind::ALL
            .into_iter()
            .map(|kind| (section(kind).to_owned(), rows(kind).into()))
            .collect::<Map<_, _>>()
            .into())
    }

    /// Where a refusal of control belongs.
    pub fn fault(&self, kind: &str, name: &str, field: &str, problem: &str) -> Option<Fault> {
        let kind = Kind::ALL.into_iter().find(|known| known.name() == kind)?;
        let row = self.rows.get(&(kind, name.to_owned()))?;
        let steps = steps(field);
        let place = if steps.is_empty() { row.place } else { row.node.place_of(&steps) };
        let problem = format!("{} {name}: {problem}", kind.name());
        Some(Fault { file: row.file.clone(), place: Some(place), problem })
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether nothing is declared.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

fn unknown_section(name: &str) -> String {
    let names = "`templates`, `sandboxes`, `handlers` or `secrets`";
    let own = serde_json::from_value::<PolicyDocument>(json!({ name: null }));
    if own.is_ok() || name == "rules" {
        return format!(
            "`{name}` is a field of a policy; put it below templates.NAME or sandboxes.NAME.overrides"
        );
    }
    suggest(&format!("unknown field `{name}`, expected {names}"))
}

/// One row as the API takes it.
fn body(kind: Kind, node: &Node, folder: &Path) -> Result<Json, Flaw> {
    match kind {
        Kind::Template => {
            let document: PolicyDocument = fit(node, "a template")?;
            document.validate().map_err(|error| flaw(node, "", &error))?;
            Ok(json!(document))
        }
        Kind::Sandbox => {
            let fields: SandboxFields = fit(node, "a sandbox")?;
            fields.overrides.validate().map_err(|error| flaw(node, "overrides", &error))?;
            Ok(json!(fields))
        }
        Kind::Handler => handler(node, folder),
        Kind::Secret => secret::read(node, folder),
    }
}

fn flaw(node: &Node, outer: &str, error: &DocumentError) -> Flaw {
    let mut path = steps(outer);
    path.extend(steps(&error.field));
    Flaw { place: node.place_of(&path), problem: error.to_string() }
}

fn handler(node: &Node, folder: &Path) -> Result<Json, Flaw> {
    let fields: HandlerFields = fit(node, "a handler")?;
    match fields {
        HandlerFields { file: Some(file), module: None } => {
            let path = folder.join(file);
            let place = node.place_of(&[Step::Key("file".into())]);
            let flaw = |problem| Flaw { place, problem };
            let fix = "build it with `outgate handler build`";
            let wasm = std::fs::read(&path)
                .map_err(|error| flaw(format!("cannot read {}: {error}; {fix}", path.display())))?;
            if !wasm.starts_with(b"\0asm") {
                return Err(flaw(format!("{} is no WebAssembly module; {fix}", path.display())));
            }
            if wasm.len() > BODY_BYTES_MAX {
                return Err(flaw(format!("{} has more than {BODY_BYTES_MAX} bytes", path.display())));
            }
            Ok(json!({ "wasm": BASE64.encode(&wasm) }))
        }
        HandlerFields { file: None, module: Some(module) } => Ok(json!({ "module": module })),
        _ => Err(Flaw { place: node.place, problem: "a handler has one field: file = \"NAME.wasm\"".into() }),
    }
}
