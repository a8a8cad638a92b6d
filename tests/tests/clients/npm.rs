//! npm against a registry.

use tests::yard::{SECRET, Yard};

use super::{allowed, needs, refused, shelf, with_a_secret_never_held};

/// A registry of one package.
const REGISTRY: &str = r#"
mkdir -p package shelf/files
echo '{ "name": "seedling", "version": "1.0.0", "main": "index.js" }' >package/package.json
echo 'module.exports = "it grew"' >package/index.js
tar -czf shelf/files/seedling-1.0.0.tgz package
sum=$(openssl dgst -sha512 -binary shelf/files/seedling-1.0.0.tgz | base64 -w0)
cat >shelf/seedling <<END
{ "name": "seedling", "dist-tags": { "latest": "1.0.0" }, "versions": { "1.0.0": {
  "name": "seedling", "version": "1.0.0",
  "dist": { "tarball": "$BASE/files/seedling-1.0.0.tgz", "integrity": "sha512-$sum" } } } }
END
"#;

fn yard(demanded: Option<String>) -> Yard {
    needs(&["npm", "--version"], "npm");
    shelf::yard(REGISTRY, demanded)
}

fn install(yard: &Yard, host: &str) -> String {
    let port = yard.origin.address.port();
    format!(
        "mkdir -p project; cd project; echo '{{}}' >package.json\n\
         npm install --registry https://{host}:{port}/ seedling\n\
         node -e 'console.log(require(\"seedling\"))'"
    )
}

#[test]
fn package_is_installed_and_runs() {
    let yard = yard(None);
    assert!(allowed(&yard, &install(&yard, "origin.test")).ends_with("it grew\n"));
}

#[test]
fn refused_registry_is_explained_and_sees_nothing() {
    let yard = yard(None);
    assert!(
        refused(&yard, &install(&yard, "denied.test")).contains("403 Forbidden (outgate: host_not_allowed)")
    );
}

#[test]
fn private_registry_is_used_with_a_secret_that_npm_never_holds() {
    let yard = yard(Some(format!("Bearer {SECRET}")));
    let out = with_a_secret_never_held(&yard, "", SECRET, &install(&yard, "origin.test"));
    assert!(out.contains("it grew\n"), "{out}");
}
