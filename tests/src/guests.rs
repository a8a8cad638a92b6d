//! Guests of tests: text modules that do one thing, and the examples of the SDK.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Mutex, OnceLock, PoisonError},
};

use handlers_sdk_abi::manifest::Hook;
use handlers_sdk_guests::{GuestBuild, build, default_target_dir, examples_dir};

use crate::checkout;

/// A guest whose `og_event` has this body, and whose list of actions lies at 4096.
///
/// # Panics
/// When the text is no module.
pub fn guest(more: &str, event: &str) -> Vec<u8> {
    guest_for(&[Hook::Request], more, event)
}

/// The same with these hooks in its manifest.
///
/// # Panics
/// When the text is no module.
pub fn guest_for(hooks: &[Hook], more: &str, event: &str) -> Vec<u8> {
    let hooks = hooks.iter().map(|hook| format!(r"\22{}\22", hook.name())).collect::<Vec<_>>().join(",");
    let text = format!(
        r#"(module
        (import "outgate" "panic" (func $panic (param i32 i32)))
        (memory (export "memory") 1)
        {more}
        (func (export "og_alloc") (param i32) (result i32) i32.const 16384)
        (func (export "og_init") (param i32 i32) (result i64) i64.const 0)
        (func (export "og_event") (param $kind i32) (param $at i32) (param $len i32) (result i64) {event})
        (@custom "outgate" "{{\22abi\22:1,\22name\22:\22h\22,\22hooks\22:[{hooks}]}}"))"#
    );
    wat::parse_str(text).expect("text of a module")
}

/// One entry of an action list.
pub fn entry(op: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![op, 0];
    bytes.extend_from_slice(&(name.len() as u16).to_le_bytes());
    bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(value);
    bytes
}

/// A guest that answers with this list of actions.
pub fn answering(list: &[u8]) -> Vec<u8> {
    let data: String = list.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let answer = (4096i64 << 32) | list.len() as i64;
    guest(&format!(r#"(data (i32.const 4096) "{data}")"#), &format!("i64.const {answer}"))
}

/// An example of the SDK by its name, built once per process.
///
/// # Panics
/// When there is no such example or it does not build.
pub fn example(name: &str) -> Vec<u8> {
    static EXAMPLES: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    let examples = EXAMPLES.get_or_init(|| {
        let built = handlers_sdk_guests::build_examples(&handlers_sdk_guests::default_target_dir());
        let modules = built.unwrap_or_else(|error| panic!("the examples build: {error}"));
        modules.into_iter().map(|(name, path)| (name, fs::read(path).expect("a module"))).collect()
    });
    examples.get(name).unwrap_or_else(|| panic!("there is no example {name}")).clone()
}

/// A handler of a test, built as authors build theirs: a crate with this name and source that depends on the SDK.
///
/// # Panics
/// When it does not build.
pub fn built(name: &str, source: &str) -> Vec<u8> {
    // Tests of one process share the folder: what one writes, another would read half of.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // Always the same folder, so that it is built once.
    let manifest_dir = default_target_dir().join("tests").join(name);
    let manifest = format!(
        "[package]\nname = {name:?}\nversion = \"0.1.0\"\nedition = \"2024\"\n[lib]\ncrate-type = [\"cdylib\", \"rlib\"]\n\
         [dependencies]\nhandlers-sdk = {{ path = {:?} }}\n[workspace]\n",
        checkout().join("handlers-sdk"),
    );
    fs::create_dir_all(manifest_dir.join("src")).expect("the target folder takes folders");
    fs::write(manifest_dir.join("Cargo.toml"), manifest).expect("a file is written");
    fs::write(manifest_dir.join("src/lib.rs"), source).expect("a file is written");
    // The versions of the examples: what they need is there already.
    fs::copy(examples_dir().join("Cargo.lock"), manifest_dir.join("Cargo.lock")).expect("a file is copied");
    let module = build(&GuestBuild { manifest_dir, target_dir: default_target_dir() });
    fs::read(module.unwrap_or_else(|error| panic!("{name} builds: {error}"))).expect("a module")
}
