//! Rows that the gateway inside a test begins with.

use control_wire::row::{Op, TemplateRow};

/// The template `t`: these hosts are allowed, a loopback origin may be reached, and it gets the secret `token`.
pub fn policy(allowed: &str) -> Op {
    template(
        "t",
        &format!(
            r#"{{"allowedHosts":{allowed},
            "allowedAddresses":[{{"host":"origin.test","cidrs":["127.0.0.0/8"]}}],
            "rules":[{{"host":"origin.test","actions":[{{"bearer":{{"secret":"token"}}}}]}}]}}"#
        ),
    )
}

/// A template with this document.
pub fn template(name: &str, document: &str) -> Op {
    Op::UpsertTemplate(TemplateRow { name: name.to_owned(), document: document.to_owned() })
}
