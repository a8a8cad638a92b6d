//! Guests, compiled as control does it.
#![allow(dead_code, reason = "each bench that runs guests takes what it needs")]

use std::sync::Arc;

use control::compile::{Signer, compile, sha256};
use control_wire::envelope::ArtefactKey;
use dataplane::handler::{Loaded, VerifyingKey, load, target};
use handlers_sdk_abi::{ABI_VERSION, ActionWriter, Answer};

/// The module of the example `inject_token`.
pub fn module() -> Vec<u8> {
    example("inject_token")
}

/// The module of an example, as the SDK's build makes it: one page of memory.
pub fn example(name: &str) -> Vec<u8> {
    let examples = handlers_sdk_guests::build_examples(&handlers_sdk_guests::default_target_dir());
    let examples = examples.expect("the examples are built");
    let (_, path) = examples.iter().find(|(found, _)| found == name).expect("the example");
    std::fs::read(path).expect("a module")
}

/// Compiles, signs and loads a module.
pub fn loaded(wasm: &[u8]) -> Arc<Loaded> {
    let (signer, _) = Signer::generate().expect("a key");
    let artefact = compile(wasm, &target()).expect("code");
    let key = ArtefactKey::current(target(), ABI_VERSION, sha256(wasm));
    load(&signer.seal(&key, &artefact), &VerifyingKey(signer.public_key()), &target()).expect("a version")
}

/// A guest of so many pages that asks for the secret `t` in the field `a`, whatever it is shown: what is measured is the
/// host.
pub fn answering(pages: u32) -> Vec<u8> {
    let text = r#"(module
        (import "outgate" "panic" (func (param i32 i32)))
        (memory (export "memory") PAGES)
        (data (i32.const 4096) "LIST")
        (func (export "og_alloc") (param i32) (result i32) i32.const 16384)
        (func (export "og_init") (param i32 i32) (result i64) i64.const 0)
        (func (export "og_event") (param i32 i32 i32) (result i64) i64.const ANSWER)
        (@custom "outgate" "{\22abi\22:1,\22name\22:\22h\22,\22hooks\22:[\22request\22]}"))"#;
    let mut list = ActionWriter::new();
    list.set_secret(b"a", b"", "t");
    let list = list.into_bytes();
    let bytes: String = list.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let answer = Answer { pointer: 4096, len: list.len() as u32, pending: false }.encode();
    wat::parse_str(
        text.replace("PAGES", &pages.to_string())
            .replace("LIST", &bytes)
            .replace("ANSWER", &answer.to_string()),
    )
    .expect("a module")
}

/// A guest of one page that asks to look at the answer's body, and answers each event with nothing else.
pub fn looking() -> Vec<u8> {
    let text = r#"(module
        (memory (export "memory") 1)
        (data (i32.const 4096) "\0b\01\00\00\00\00\00\00")
        (func (export "og_alloc") (param i32) (result i32) i32.const 16384)
        (func (export "og_init") (param i32 i32) (result i64) i64.const 0)
        (func (export "og_event") (param i32 i32 i32) (result i64)
            (if (result i64) (i32.eq (local.get 0) (i32.const 2))
                (then (i64.const 0x100000000008)) (else (i64.const 0))))
        (@custom "outgate" "{\22abi\22:1,\22name\22:\22h\22,\22hooks\22:[\22request\22,\22responseBody\22]}"))"#;
    wat::parse_str(text).expect("a module")
}
