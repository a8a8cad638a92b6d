//! Node, by both of its clients.

use tests::yard::Yard;

use crate::trial::{self, URL, Way, passes};

/// Brings the libraries.
pub fn bring(yard: &Yard) {
    trial::bring(yard, "node-clients/node_modules", "node_modules");
}

#[test]
fn node_fetch() {
    let script = "fetch(process.argv[1]).then(answer => answer.text()).then(console.log)";
    passes(Way::Query, &["node", "--eval", script, URL], |_| {});
}

#[test]
fn node_https() {
    let script = "require('https').get(process.argv[1], answer => answer.pipe(process.stdout))";
    passes(Way::Bearer, &["node", "--eval", script, URL], |_| {});
}
