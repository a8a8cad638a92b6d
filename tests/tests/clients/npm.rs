//! npm against a registry.

use tests::yard::{SECRET, Yard, said};

use super::{allowed, needs, refused, shelf, with_a_secret_never_held};

/// A registry of thirty packages, which npm fetches over many connections.
const REGISTRY: &str = r#"
mkdir -p package shelf/files
echo 'module.exports = "it grew"' >package/index.js
for n in $(seq 30); do
  name=seedling$n; file=files/$name-1.0.0.tgz
  echo "{ \"name\": \"$name\", \"version\": \"1.0.0\", \"main\": \"index.js\" }" >package/package.json
  tar -czf shelf/$file package
  sum=$(openssl dgst -sha512 -binary shelf/$file | base64 -w0)
  cat >shelf/$name <<END
{ "name": "$name", "dist-tags": { "latest": "1.0.0" }, "versions": { "1.0.0": {
  "name": "$name", "version": "1.0.0",
  "dist": { "tarball": "$BASE/$file", "integrity": "sha512-$sum" } } } }
END
done
"#;

fn yard(demanded: Option<String>) -> Yard {
    needs(&["npm", "--version"], "npm");
    shelf::yard(REGISTRY, demanded)
}

fn install(yard: &Yard, host: &str) -> String {
    let port = yard.origin.address.port();
    format!(
        "mkdir -p project; cd project; echo '{{}}' >package.json\n\
         npm install --registry https://{host}:{port}/ $(seq -f seedling%g 30)\n\
         for n in $(seq 30); do echo \"console.log(require('seedling$n'))\"; done | node"
    )
}

#[test]
fn packages_are_installed_and_run() {
    let yard = yard(None);
    let out = allowed(&yard, &install(&yard, "origin.test"));
    // Connections that npm opens ahead and leaves were refused by nobody.
    let why = yard.ground.command(&yard.outgate, &["why"]).output().expect("it runs");
    assert_eq!(said(&why).0, "nothing was refused\n");
    assert_eq!(out.matches("it grew\n").count(), 30, "{out}");
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
