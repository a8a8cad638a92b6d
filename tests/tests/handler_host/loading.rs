//! What a plane does not load, and control does not publish.

use std::path::Path;

use control::compile::{compile_in_child, publish};
use control_wire::envelope::{CompileTarget, MEMORY_STYLE};
use dataplane::handler::LoadError;

use super::*;

#[test]
fn one_flipped_bit_is_not_loaded() {
    let bench = Bench::new();
    let envelope = bench.envelope(&guest("", "i64.const 0"));
    load(&envelope, &bench.trust(), &target()).expect("the envelope itself loads");
    let step = (envelope.len() / 400).max(1);
    for at in (0..envelope.len()).step_by(step).chain(0..512) {
        let mut flipped = envelope.clone();
        flipped[at] ^= 1 << (at % 8);
        let error = load(&flipped, &bench.trust(), &target()).expect_err("a flipped bit is refused");
        assert!(
            matches!(error, LoadError::Envelope(_) | LoadError::Signature | LoadError::Hash),
            "{at}: {error:?}"
        );
    }
    for end in (0..envelope.len()).step_by(step) {
        load(&envelope[..end], &bench.trust(), &target()).expect_err("a truncation is refused");
    }
}

#[test]
fn a_wrong_signature_and_every_wrong_key_is_not_loaded() {
    let bench = Bench::new();
    let wasm = guest("", "i64.const 0");
    let artefact = compile(&wasm, &target()).expect("compiles");
    let key = ArtefactKey::current(target(), ABI_VERSION, sha256(&wasm));
    let (stranger, _) = Signer::generate().expect("a key");
    let refused = load(&stranger.seal(&key, &artefact), &bench.trust(), &target());
    assert!(matches!(refused, Err(LoadError::Signature)));
    let other = |change: fn(&mut ArtefactKey)| {
        let mut key = key.clone();
        change(&mut key);
        match load(&bench.signer.seal(&key, &artefact), &bench.trust(), &target()) {
            Err(LoadError::Key { field }) => field,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(other(|key| key.abi += 1), "ABI version");
    assert_eq!(other(|key| key.wasmer = "7.4.3".into()), "wasmer version");
    assert_eq!(other(|key| key.memory_style = "static".into()), "memory style");
    assert_eq!(other(|key| key.target.triple = "aarch64-unknown-linux-gnu".into()), "target triple");
    assert_eq!(other(|key| key.target.cpu_features.clear()), "CPU features");
    assert_eq!(other(|key| key.budget = "none".into()), "budget kind");
}

/// Compiles as nobody should: with Wasmer's own style, which has no bounds checks, under a key that lies about it.
fn compile_static(wasm: &[u8]) -> Vec<u8> {
    let engine =
        wasmer::Engine::from(wasmer::sys::EngineBuilder::new(wasmer::sys::Cranelift::new()).engine());
    wasmer::Module::new(&engine, wasm).expect("compiles").serialize().expect("serialises").to_vec()
}

#[test]
fn code_of_another_memory_style_is_not_loaded() {
    let bench = Bench::new();
    // The budget's globals are the guest's own here, so that the style is what it fails for.
    let globals = r#"(global (export "outgate:fuel") (mut i64) (i64.const 0))
                     (global (export "outgate:flag") (mut i32) (i32.const 0))"#;
    let wasm = guest(globals, "i64.const 0");
    let key = ArtefactKey::current(target(), ABI_VERSION, sha256(&wasm));
    assert_eq!(key.memory_style, MEMORY_STYLE);
    let refused = load(&bench.signer.seal(&key, &compile_static(&wasm)), &bench.trust(), &target());
    match refused {
        Err(LoadError::Instance(error)) => {
            assert!(format!("{error}").contains("memory style Static"), "{error}")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn code_without_a_budget_or_with_a_start_is_not_loaded() {
    let bench = Bench::new();
    for (more, words) in [("", "counts no fuel"), ("(func $s) (start $s)", "has a start function")] {
        let wasm = guest(more, "i64.const 0");
        let key = ArtefactKey::current(target(), ABI_VERSION, sha256(&wasm));
        match load(&bench.signer.seal(&key, &compile_static(&wasm)), &bench.trust(), &target()) {
            Err(LoadError::Contract(found)) => assert_eq!(found, words),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn start_function_and_foreign_import_are_refused_at_publish() {
    let started = compile(&guest("(func $s) (start $s)", "i64.const 0"), &target());
    assert!(format!("{:?}", started.expect_err("refused")).contains("StartFunction"));
    let text = r#"(module (import "env" "clock" (func)) (memory (export "memory") 1))"#;
    let foreign = compile(&wat::parse_str(text).expect("text"), &target());
    assert!(format!("{:?}", foreign.expect_err("refused")).contains("ForeignImport"));
}

#[test]
fn child_compiles_the_same_code_and_says_why_it_refuses() {
    let child = Path::new(env!("CARGO_BIN_EXE_compile-child"));
    let wasm = guest("", "i64.const 0");
    let code = compile_in_child(child, &wasm, &target()).expect("compiles");
    assert_eq!(code, compile(&wasm, &target()).expect("compiles"));
    let nowhere = CompileTarget::new("sparc-sun-solaris", Vec::new());
    let refused = compile_in_child(child, &wasm, &nowhere).expect_err("refused");
    assert!(refused.to_string().contains("sparc-sun-solaris"), "{refused}");
    let bench = Bench::new();
    let published = publish(child, &wasm, &target(), &bench.signer).expect("published");
    assert_eq!(published.manifest.name, "h");
    load(&published.envelope, &bench.trust(), &target()).expect("loads");
}
