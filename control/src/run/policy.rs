//! The policy that the options of one run make.

use serde_json::{Map, Value, json};

use super::options::{Kind, RunArgs, SecretWish};

/// The document of the template: that of `--policy`, and what the options add to it. Lists grow; a handler for all
/// requests stands in the place of the file's.
pub fn document(args: &RunArgs, file: Value) -> Value {
    let mut document = match file {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    if args.observe {
        document.insert("enableInternet".into(), true.into());
    } else if !args.allow.is_empty() || !document.contains_key("enableInternet") {
        // Set, even empty, it is a gate.
        extend(&mut document, "allowedHosts", args.allow.iter().map(|host| json!(host.0)));
    }
    if args.ask {
        document.insert("ask".into(), json!({ "hosts": ["*"] }));
    }
    if !args.deny.is_empty() {
        extend(&mut document, "deniedHosts", args.deny.iter().map(|host| json!(host.0)));
    }
    if !args.secret.is_empty() {
        extend(&mut document, "rules", args.secret.iter().map(rule));
    }
    let mut by_host = Vec::new();
    for wish in &args.handler {
        let mut handler = json!({ "handler": wish.name() });
        if let Some(params) = &wish.params {
            handler["params"] = params.clone();
        }
        match &wish.host {
            Some(host) => {
                handler["host"] = json!(host);
                by_host.push(handler);
            }
            None => {
                document.insert("outbound".into(), handler);
            }
        }
    }
    if !by_host.is_empty() {
        extend(&mut document, "outboundByHost", by_host);
    }
    document.into()
}

fn extend(document: &mut Map<String, Value>, field: &str, more: impl IntoIterator<Item = Value>) {
    let list = document.entry(field).or_insert_with(|| json!([]));
    // What is not a list is for control to refuse, with its words.
    if let Value::Array(list) = list {
        list.extend(more);
    }
}

fn rule(wish: &SecretWish) -> Value {
    let secret = &wish.name;
    let action = match &wish.kind {
        Kind::Bearer => json!({ "bearer": { "secret": secret } }),
        Kind::Basic => json!({ "basic": { "secret": secret } }),
        Kind::BasicOf(user) => json!({ "basic": { "secret": secret, "user": user } }),
        Kind::Header(field) => json!({ "header": { "name": field, "secret": secret } }),
        Kind::Query(parameter) => json!({ "query": { "name": parameter, "secret": secret } }),
    };
    json!({ "host": wish.host, "actions": [action] })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Run {
        #[command(flatten)]
        args: RunArgs,
    }

    fn made(options: &[&str], file: Value) -> Value {
        let all = [&["run"], options, &["--", "true"]].concat();
        document(&Run::try_parse_from(all).unwrap().args, file)
    }

    #[test]
    fn nothing_is_allowed_unless_it_is_said() {
        assert_eq!(made(&[], Value::Null), json!({ "allowedHosts": [] }));
        assert_eq!(made(&["--observe"], Value::Null), json!({ "enableInternet": true }));
        assert_eq!(made(&["--ask"], Value::Null), json!({ "allowedHosts": [], "ask": { "hosts": ["*"] } }));
        // A file that says what happens to hosts outside of lists is not overruled.
        assert_eq!(made(&[], json!({ "enableInternet": true })), json!({ "enableInternet": true }));
    }

    #[test]
    fn options_are_added_to_the_file() {
        let options = [
            "--allow=a.example",
            "--deny=*.b.example",
            "--secret=t=env:T@a.example",
            "--secret=k=env:K@a.example:query=key",
            "--secret=g=env:G@a.example:basic=x-access-token",
            "--handler=one.wasm",
            "--handler=two.wasm@a.example={\"x\":1}",
        ];
        let file = json!({ "allowedHosts": ["c.example"], "outbound": { "handler": "file" } });
        let expected = json!({
            "allowedHosts": ["c.example", "a.example"],
            "deniedHosts": ["*.b.example"],
            "rules": [
                { "host": "a.example", "actions": [{ "bearer": { "secret": "t" } }] },
                { "host": "a.example", "actions": [{ "query": { "name": "key", "secret": "k" } }] },
                { "host": "a.example", "actions": [{ "basic": { "secret": "g", "user": "x-access-token" } }] },
            ],
            "outbound": { "handler": "one" },
            "outboundByHost": [{ "host": "a.example", "handler": "two", "params": { "x": 1 } }],
        });
        assert_eq!(made(&options, file), expected);
    }
}
