//! pip against a package index of its simple API.

use std::fs;

use tests::yard::{SECRET, Yard};

use super::{allowed, basic, needs, refused, shelf, with_a_secret_never_held};

/// An index of one wheel.
const INDEX: &str = r#"
mkdir -p shelf/simple/seedling shelf/files seedling-1.0.dist-info
echo 'SAID = "it grew"' >seedling.py
cd seedling-1.0.dist-info
printf 'Metadata-Version: 2.1\nName: seedling\nVersion: 1.0\n' >METADATA
printf 'Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n' >WHEEL
printf 'seedling.py,,\n' >RECORD
cd ..
wheel=seedling-1.0-py3-none-any.whl
python3 -m zipfile -c shelf/files/$wheel seedling.py seedling-1.0.dist-info/
sum=$(sha256sum <shelf/files/$wheel)
echo "<a href=\"../../files/$wheel#sha256=${sum%% *}\">$wheel</a>" >shelf/simple/seedling/index.html
"#;

fn yard(demanded: Option<String>) -> Yard {
    needs(&["python3", "-m", "pip", "--version"], "python3-pip");
    shelf::yard(INDEX, demanded)
}

fn install(yard: &Yard, host: &str) -> String {
    let port = yard.origin.address.port();
    format!(
        "python3 -m pip install --log pip.log --index-url https://{host}:{port}/simple/ --target site seedling\n\
         PYTHONPATH=site python3 -c 'import seedling; print(seedling.SAID)'"
    )
}

#[test]
fn package_is_installed_and_runs() {
    let yard = yard(None);
    assert!(allowed(&yard, &install(&yard, "origin.test")).ends_with("it grew\n"));
}

#[test]
fn refused_index_is_explained_and_sees_nothing() {
    let yard = yard(None);
    refused(&yard, &install(&yard, "denied.test"));
    // pip itself says only that there is no such package; what it was told is in its log.
    let log = fs::read_to_string(yard.ground.path("pip.log")).expect("a log");
    assert!(log.contains("403 Client Error: Forbidden (outgate: host_not_allowed)"), "{log}");
}

#[test]
fn private_index_is_used_with_a_secret_that_pip_never_holds() {
    let credential = format!("pip:{SECRET}");
    let yard = yard(Some(basic(&credential)));
    let out = with_a_secret_never_held(&yard, ":basic", &credential, &install(&yard, "origin.test"));
    assert!(out.contains("it grew\n"), "{out}");
}
