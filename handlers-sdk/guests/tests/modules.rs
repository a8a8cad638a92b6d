//! Modules that the build step makes keep the host's rules. These tests compile for WebAssembly, for real.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use handlers_sdk_abi::limits::INBOX_BYTES;
use handlers_sdk_abi::manifest::{Hook, Manifest};
use handlers_sdk_guests::{
    EXAMPLES, GuestBuild, STACK_BYTES, Source, build, build_by, build_examples, default_target_dir,
};
use wasmparser::{DataKind, Parser, Payload, Validator};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

/// What matters of a module.
#[derive(Debug, Default)]
struct Facts {
    pages: Vec<u64>,
    imports: BTreeSet<String>,
    exports: BTreeSet<String>,
    has_start: bool,
    passive: usize,
    data_end: u64,
    manifest: Option<Manifest>,
}

fn facts(module: &Path) -> Facts {
    let bytes = fs::read(module).expect("the module");
    Validator::new().validate_all(&bytes).expect("a valid module");
    let mut facts = Facts::default();
    for payload in Parser::new(0).parse_all(&bytes) {
        match payload.expect("a section") {
            Payload::MemorySection(reader) => {
                facts.pages.extend(reader.into_iter().map(|memory| memory.expect("a memory").initial));
            }
            Payload::ImportSection(reader) => facts.imports.extend(
                reader
                    .into_imports()
                    .map(|import| import.expect("an import"))
                    .map(|i| format!("{}.{}", i.module, i.name)),
            ),
            Payload::ExportSection(reader) => {
                facts
                    .exports
                    .extend(reader.into_iter().map(|export| export.expect("an export").name.to_owned()));
            }
            Payload::StartSection { .. } => facts.has_start = true,
            Payload::DataSection(reader) => {
                for data in reader {
                    let data = data.expect("data");
                    facts.data_end += data.data.len() as u64;
                    facts.passive += usize::from(matches!(data.kind, DataKind::Passive));
                }
            }
            Payload::CustomSection(section) if section.name() == "outgate" => {
                facts.manifest = Some(Manifest::parse(section.data()).expect("a manifest"));
            }
            _ => {}
        }
    }
    facts
}

fn check(module: &Path, name: &str) {
    let facts = facts(module);
    // One page, since all of it is put back after each request. More than half of the data are tables of
    // floating-point numbers, which the JSON reader of the parameters brings.
    assert_eq!(facts.pages, [1], "{facts:?}");
    assert_eq!(facts.imports, BTreeSet::from(["outgate.panic".to_owned()]));
    for export in ["memory", "og_alloc", "og_init", "og_event"] {
        assert!(facts.exports.contains(export), "{export} is missing: {facts:?}");
    }
    assert!(!facts.has_start && facts.passive == 0, "{facts:?}");
    let manifest = facts.manifest.expect("a manifest");
    let hooks: &[Hook] = match name {
        "guardAnswers" | "maskAnswers" => &[Hook::Request, Hook::Response, Hook::ResponseBody],
        "guardUploads" => &[Hook::Request, Hook::RequestBody],
        "stripFields" => &[Hook::Request, Hook::Response],
        _ => &[Hook::Request],
    };
    assert_eq!((manifest.name.as_str(), &manifest.hooks[..]), (name, hooks));
    // Stack, data, and the inbox that the host asks for first must leave room for what a usual request allocates.
    let used = u64::from(STACK_BYTES) + facts.data_end + u64::from(INBOX_BYTES);
    let left = 65_536_u64.saturating_sub(used);
    // Those that see bodies bring the search for words, and keep what it finds between pieces.
    let sees_bodies = hooks.iter().any(|hook| matches!(hook, Hook::RequestBody | Hook::ResponseBody));
    let least = if sees_bodies { 5 * 1024 } else { 6 * 1024 };
    assert!(left > least, "only {left} bytes are left of {name} before the memory grows");
}

/// A handler's name from its function's.
fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| name + &word[..1].to_uppercase() + &word[1..])
}

#[test]
fn every_example_is_a_module_that_the_host_accepts() {
    let built = build_examples(&default_target_dir()).expect("the examples");
    let names: Vec<&str> = built.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, EXAMPLES);
    for (name, module) in &built {
        check(module, &camel(name));
    }
}

#[test]
fn a_module_that_was_built_is_not_built_again() {
    let target_dir = default_target_dir();
    let guest = GuestBuild { manifest_dir: example("no_http"), target_dir };
    let first = build(&guest).expect("a module");
    let made = fs::metadata(&first).expect("a file").modified().expect("a time");
    let second = build(&guest).expect("a module");
    assert_eq!(first, second);
    assert_eq!(made, fs::metadata(&second).expect("a file").modified().expect("a time"));
}

#[test]
fn a_crate_that_does_not_compile_says_where() {
    let folder = tempfile::tempdir().expect("a folder");
    let manifest = "[package]\nname = \"broken\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[lib]\ncrate-type = [\"cdylib\"]\n\
                    [workspace]\n";
    fs::write(folder.path().join("Cargo.toml"), manifest).expect("a manifest");
    fs::create_dir(folder.path().join("src")).expect("a folder");
    fs::write(folder.path().join("src/lib.rs"), "fn broken() -> u8 { \"text\" }").expect("a source");
    let guest = GuestBuild { manifest_dir: folder.path().to_owned(), target_dir: default_target_dir() };
    let error = build(&guest).expect_err("it does not compile").to_string();
    assert!(error.contains("src/lib.rs:1") && error.contains("mismatched types"), "{error}");
}

#[test]
#[ignore = "fetches 137 MB from Debian and compiles a standard library"]
fn debians_compiler_makes_the_same_kind_of_module() {
    let guest = GuestBuild { manifest_dir: example("allow_hosts"), target_dir: default_target_dir() };
    check(&build_by(&guest, Source::Debian).expect("a module"), "allowHosts");
}
