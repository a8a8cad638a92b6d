//! Rows and tables of fleets of any size.

use control_wire::row::{Op, SandboxRow, SecretRow, SecretValue, TemplateRow};
use dataplane::snapshot::Tables;

use crate::{policy::TEMPLATE, seeded::Seeded};

/// Name of the template that all sandboxes share.
pub const TEMPLATE_NAME: &str = "coding-agent";

/// The value of the secret that [`TEMPLATE`] puts on requests.
pub const SECRET: &[u8] = b"sk-proj-0123456789abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// Upsert of the shared template.
pub fn template(document: &str) -> Op {
    Op::UpsertTemplate(TemplateRow { name: TEMPLATE_NAME.into(), document: document.into() })
}

/// Upsert of the secret that the template names.
pub fn secret() -> Op {
    Op::UpsertSecret(SecretRow {
        name: "openai".into(),
        version: 1,
        value: SecretValue::new(SECRET),
        hosts: vec!["api.openai.com".into()],
        allow_plaintext: false,
    })
}

/// Upsert of one sandbox, with labels, salt, and a certificate as long as those that planes make.
pub fn sandbox(number: usize, overrides: &str, seeded: &mut Seeded) -> Op {
    let labels = [("team", number % 40), ("region", number % 6), ("generation", number % 3)];
    Op::UpsertSandbox(SandboxRow {
        id: format!("box-{number}"),
        template: TEMPLATE_NAME.into(),
        overrides: overrides.into(),
        labels: labels
            .into_iter()
            .map(|(name, value)| (name.to_owned(), format!("{name}-{value}")))
            .collect(),
        salt: seeded.bytes(),
        ca_certificate: Some(seeded.bytes::<480>().to_vec()),
        answers: Vec::new(),
    })
}

/// The tables of a fleet: one template, one secret and `count` sandboxes without overrides.
///
/// # Panics
/// When a row does not hold.
pub fn tables(count: usize, seeded: &mut Seeded) -> Tables {
    let mut ops = vec![template(TEMPLATE), secret()];
    ops.extend((0..count).map(|number| sandbox(number, "{}", seeded)));
    change(&Tables::default(), ops)
}

/// The next revision.
///
/// # Panics
/// When a row does not hold.
pub fn change(tables: &Tables, ops: Vec<Op>) -> Tables {
    let applied = tables.apply(tables.revision + 1, ops, &|_| panic!("no handler is among these rows"));
    applied.expect("rows that hold").0
}
