//! How actions are read: what is said of mistakes speaks of what an operator writes.

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{RuleAction, UpstreamWay};

/// [`RuleAction`] as it is read: its own reader would speak of Rust's variants.
#[derive(Deserialize)]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "an action: {\"deny\": {\"reason\": text}}, {\"header\": {\"name\": field, \"secret\": name}}, \
                 {\"bearer\": {\"secret\": name}}, {\"basic\": {\"secret\": name}}, \
                 {\"query\": {\"name\": parameter, \"secret\": name}}, {\"clientCertificate\": {\"secret\": name}}, \
                 {\"passthrough\": {}}, {\"upstream\": {\"via\": proxy, \"sourceAddress\": address}} or \
                 {\"upgrade\": [protocol, …]}"
)]
pub(super) struct ActionFields {
    deny: Option<DenyFields>,
    header: Option<HeaderFields>,
    bearer: Option<BearerFields>,
    basic: Option<BasicFields>,
    query: Option<QueryFields>,
    client_certificate: Option<BearerFields>,
    passthrough: Option<NoFields>,
    upstream: Option<UpstreamWay>,
    #[serde(default, deserialize_with = "protocols")]
    upgrade: Option<Vec<String>>,
}

/// Protocols that a request may change to. One alone is a mistake that is easily made.
fn protocols<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    struct List;

    impl<'de> Visitor<'de> for List {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of protocols, one of them too: [\"tcp\"]")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
            let mut all = Vec::new();
            while let Some(protocol) = list.next_element()? {
                all.push(protocol);
            }
            Ok(all)
        }
    }

    from.deserialize_seq(List).map(Some)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "{}: it has no fields")]
struct NoFields {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "{\"reason\": text}")]
struct DenyFields {
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "{\"name\": field, \"secret\": name}, optionally \"prefix\"")]
struct HeaderFields {
    name: String,
    secret: String,
    #[serde(default)]
    prefix: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "{\"secret\": name}")]
struct BearerFields {
    secret: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "{\"secret\": name}, optionally \"user\"")]
struct BasicFields {
    secret: String,
    user: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "{\"name\": parameter, \"secret\": name}")]
struct QueryFields {
    name: String,
    secret: String,
}

impl TryFrom<ActionFields> for RuleAction {
    type Error = &'static str;

    fn try_from(fields: ActionFields) -> Result<Self, Self::Error> {
        let ActionFields { deny, header, bearer, basic, query, client_certificate, .. } = fields;
        let ActionFields { passthrough, upstream, upgrade, .. } = fields;
        let named = [
            deny.map(|DenyFields { reason }| Self::Deny { reason }),
            header.map(|HeaderFields { name, secret, prefix }| Self::Header { name, secret, prefix }),
            bearer.map(|BearerFields { secret }| Self::Bearer { secret }),
            basic.map(|BasicFields { secret, user }| Self::Basic { secret, user }),
            query.map(|QueryFields { name, secret }| Self::Query { name, secret }),
            client_certificate.map(|BearerFields { secret }| Self::ClientCertificate { secret }),
            passthrough.map(|NoFields {}| Self::Passthrough {}),
            upstream.map(Self::Upstream),
            upgrade.map(Self::Upgrade),
        ];
        let mut named = named.into_iter().flatten();
        match (named.next(), named.next()) {
            (Some(action), None) => Ok(action),
            _ => Err(
                "an action has exactly one of `deny`, `header`, `bearer`, `basic`, `query`, `clientCertificate`, \
                 `passthrough`, `upstream` and `upgrade`; write several as several actions",
            ),
        }
    }
}
