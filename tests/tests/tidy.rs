//! Holds the shape of the project: its top level, the layering of its packages and modules, and where unsafe code is.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use tests::checkout;

/// Everything that may lie at the top beside dot-files.
const TOP_LEVEL: [&str; 10] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "benches",
    "control",
    "dataplane",
    "handlers-sdk",
    "loadtest",
    "tests",
];

/// Built by tools, never committed.
const IGNORED: [&str; 1] = ["target"];

/// The only files that may hold unsafe code; each says why on its own.
const UNSAFE_FILES: &[&str] = &[
    "control/src/compile/child.rs",
    "control/src/compile/cranelift.rs",
    "control/src/sandbox/system.rs",
    "dataplane/src/handler/instance.rs",
    "dataplane/src/handler/loaded.rs",
    "dataplane/src/handler/memory.rs",
    "dataplane/src/handler/tunables.rs",
    "dataplane/src/handler/watchdog.rs",
    "dataplane/src/ring/buffers.rs",
    "dataplane/src/ring/packet.rs",
    "dataplane/src/ring/sys.rs",
    "dataplane/src/shard/memory.rs",
    "handlers-sdk/macros/src/lib.rs",
    "handlers-sdk/src/guest.rs",
    "tests/src/allocations.rs",
    "tests/src/counting.rs",
];

/// Lines of a file without its unit tests.
const FILE_LINES_MAX: usize = 400;

fn sources() -> Vec<(String, String)> {
    fn walk(root: &Path, folder: &Path, found: &mut Vec<(String, String)>) {
        let mut entries: Vec<PathBuf> =
            fs::read_dir(folder).expect("folder").map(|entry| entry.expect("entry").path()).collect();
        entries.sort();
        for path in entries {
            let name = path.file_name().expect("name").to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    walk(root, &path, found);
                }
            } else if name.ends_with(".rs") {
                let relative =
                    path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
                found.push((relative, fs::read_to_string(&path).expect("text")));
            }
        }
    }
    let (root, mut found) = (checkout(), Vec::new());
    walk(&root, &root, &mut found);
    assert!(found.len() > 20, "the walk found too few sources to be believed: {}", found.len());
    found
}

/// Whether the whole file is unit tests: `tests.rs`, `x_tests.rs`, or in a folder of tests.
fn is_test(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs") || path.ends_with("_tests.rs")
}

/// The part of a source before its unit tests.
fn shipped(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod ").next().unwrap_or(text)
}

#[test]
fn top_level_is_the_owners() {
    let found: BTreeSet<String> = fs::read_dir(checkout())
        .expect("checkout")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.') && !IGNORED.contains(&name.as_str()))
        .collect();
    let strangers: Vec<_> = found.iter().filter(|name| !TOP_LEVEL.contains(&name.as_str())).collect();
    assert!(strangers.is_empty(), "not of the owner's top level: {strangers:?}");
    for name in TOP_LEVEL {
        assert!(found.contains(name), "{name} is missing from the top level");
    }
}

#[test]
fn every_source_says_in_its_first_line_what_it_is_for() {
    let silent: Vec<String> =
        sources().into_iter().filter(|(_, text)| !text.starts_with("//! ")).map(|(path, _)| path).collect();
    assert!(silent.is_empty(), "no `//!` first line: {silent:?}");
}

#[test]
fn no_source_is_longer_than_a_reader_can_hold() {
    let long: Vec<String> = sources()
        .iter()
        .filter_map(|(path, text)| {
            let lines = shipped(text).lines().count();
            (lines > FILE_LINES_MAX && !is_test(path)).then(|| format!("{path}: {lines}"))
        })
        .collect();
    assert!(long.is_empty(), "more than {FILE_LINES_MAX} lines without unit tests: {long:#?}");
}

#[test]
fn unsafe_code_lies_only_where_it_is_named() {
    let strangers: Vec<String> = sources()
        .into_iter()
        .filter(|(path, text)| {
            let unsafe_inside =
                text.lines().map(str::trim_start).filter(|line| !line.starts_with("//")).any(|line| {
                    line.contains("allow(unsafe_code")
                        || line.contains("unsafe {")
                        || line.contains("unsafe fn ")
                });
            unsafe_inside && path != "tests/tests/tidy.rs" && !UNSAFE_FILES.contains(&path.as_str())
        })
        .map(|(path, _)| path)
        .collect();
    assert!(strangers.is_empty(), "unsafe code outside the named files: {strangers:?}");
}

/// Packages of ours that each package may depend on, as DESIGN names them.
#[test]
fn packages_depend_only_on_what_stands_below_them() {
    let ours = [
        "handlers-sdk-abi",
        "handlers-sdk-macros",
        "handlers-sdk-guests",
        "handlers-sdk",
        "control-wire",
        "control",
        "dataplane",
        "loadtest",
        "benches",
        "tests",
    ];
    let allowed: [(&str, &[&str]); 8] = [
        ("handlers-sdk/abi", &[]),
        ("handlers-sdk/macros", &[]),
        ("handlers-sdk", &["handlers-sdk-abi", "handlers-sdk-macros"]),
        ("handlers-sdk/guests", &["handlers-sdk-abi"]),
        ("control/wire", &[]),
        ("control", &["control-wire", "handlers-sdk-abi", "handlers-sdk-guests"]),
        ("dataplane", &["control-wire", "handlers-sdk-abi"]),
        ("loadtest", &[]),
    ];
    for (package, below) in allowed {
        let manifest = fs::read_to_string(checkout().join(package).join("Cargo.toml")).expect("manifest");
        let dependencies = manifest.split("[dependencies]").nth(1).unwrap_or_default();
        for line in dependencies.lines().take_while(|line| !line.starts_with('[')) {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            assert!(
                !ours.contains(&name) || below.contains(&name),
                "{package} depends on {name}, which does not stand below it"
            );
        }
    }
}

/// The order of the modules in the plane's `lib.rs`.
fn plane_modules() -> Vec<String> {
    let text = fs::read_to_string(checkout().join("dataplane/src/lib.rs")).expect("lib.rs");
    text.lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_module_of_the_plane_uses_only_what_stands_above_it() {
    let order = plane_modules();
    assert!(order.len() > 15, "lib.rs lists too few modules to be believed");
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let Some(inside) = path.strip_prefix("dataplane/src/") else { continue };
        let module = inside.split(['/', '.']).next().unwrap_or_default();
        let Some(place) = order.iter().position(|name| name == module) else { continue };
        for below in &order[place + 1..] {
            let named = [format!("crate::{below}::"), format!("crate::{below};")];
            if shipped(&text).lines().any(|line| named.iter().any(|name| line.contains(name))) {
                wrong.push(format!("{path} uses {below}, which stands below it"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn policy_does_no_io_and_asks_no_clock() {
    for (path, text) in sources() {
        if path.starts_with("dataplane/src/policy") {
            for word in
                ["std::net::Tcp", "std::fs", "Instant::now", "SystemTime::now", "crate::ring", ".await"]
            {
                assert!(!shipped(&text).contains(word), "{path} contains {word}");
            }
        }
    }
}
