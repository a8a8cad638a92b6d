//! cargo against a sparse index.

use std::{path::PathBuf, process::Command};

use tests::yard::{SECRET, Yard};

use super::{allowed, refused, shelf, with_a_secret_never_held};

/// An index of thirty crates, which cargo fetches all at once.
const INDEX: &str = r#"
mkdir -p shelf/index/se/ed
echo "{ \"dl\": \"$BASE/crates\" }" >shelf/index/config.json
for n in $(seq 30); do
  crate=seedling$n-1.0.0; file=shelf/crates/seedling$n/1.0.0/download
  mkdir -p $crate/src ${file%/*}
  printf '[package]\nname = "seedling%s"\nversion = "1.0.0"\nedition = "2021"\n' $n >$crate/Cargo.toml
  echo '//! It grew.' >$crate/src/lib.rs
  tar -czf $file $crate
  sum=$(sha256sum <$file)
  echo "{ \"name\": \"seedling$n\", \"vers\": \"1.0.0\", \"deps\": [], \"features\": {}, \"yanked\": false," \
       "\"cksum\": \"${sum%% *}\" }" >shelf/index/se/ed/seedling$n
done
"#;

/// A yard with a toolchain that an ordinary user may use.
struct Workshop {
    yard: Yard,
    /// Out of the folder that is searched for secrets: it is large.
    toolchain: tempfile::TempDir,
}

impl Workshop {
    fn new(demanded: Option<String>) -> Self {
        Self { yard: shelf::yard(INDEX, demanded), toolchain: toolchain() }
    }

    fn fetch(&self, host: &str) -> String {
        let port = self.yard.origin.address.port();
        let bin = self.toolchain.path().join("bin");
        format!(
            "export PATH={}:$PATH; mkdir -p project/src .cargo; cd project; echo >src/lib.rs\n\
             printf '[registries.origin]\\nindex = \"sparse+https://{host}:{port}/index/\"\\n' >../.cargo/config.toml\n\
             printf '[package]\\nname = \"own\"\\nversion = \"0.1.0\"\\nedition = \"2021\"\\n' >Cargo.toml\n\
             printf '[dependencies]\\n' >>Cargo.toml\n\
             for n in $(seq 30); do echo \"seedling$n = {{ version = '1', registry = 'origin' }}\"; done >>Cargo.toml\n\
             cargo fetch; cat ~/.cargo/registry/src/*/seedling*-1.0.0/src/lib.rs",
            bin.display()
        )
    }
}

/// The part of this toolchain that fetches: where root's home holds it, nobody else may enter.
fn toolchain() -> tempfile::TempDir {
    let print = Command::new("rustc").args(["--print", "sysroot"]).output();
    let print = print.expect("rustc does not work here; install a Rust toolchain");
    let from = PathBuf::from(String::from_utf8(print.stdout).expect("text").trim());
    let to = tempfile::Builder::new().prefix("outgate-toolchain-").tempdir().expect("a temporary folder");
    let script = "chmod 755 \"$1\"; mkdir \"$1/bin\" \"$1/lib\"; for file in bin/cargo bin/rustc lib/*.so*; do \
                  ln $file \"$1/$file\" 2>/dev/null || cp $file \"$1/$file\"; done";
    let done = Command::new("sh").args(["-euc", script, "sh"]).arg(to.path()).current_dir(from).status();
    assert!(done.expect("sh runs").success());
    to
}

#[test]
fn crates_are_fetched() {
    let workshop = Workshop::new(None);
    let out = allowed(&workshop.yard, &workshop.fetch("origin.test"));
    assert_eq!(out, "//! It grew.\n".repeat(30));
}

#[test]
fn refused_index_is_explained_by_cargo_itself_and_sees_nothing() {
    let workshop = Workshop::new(None);
    let said = refused(&workshop.yard, &workshop.fetch("denied.test"));
    assert!(said.contains("\"detail\":\"denied.test: is not on the allow list\""), "{said}");
}

#[test]
fn private_index_is_used_with_a_secret_that_cargo_never_holds() {
    let workshop = Workshop::new(Some(SECRET.into()));
    let script = workshop.fetch("origin.test");
    let out = with_a_secret_never_held(&workshop.yard, ":header=Authorization", SECRET, &script);
    assert!(out.contains("//! It grew.\n"), "{out}");
}
