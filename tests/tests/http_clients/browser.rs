//! Chromium without a window, by its own sandbox inside ours, with pages that need other files to be whole.

use std::fs;

use tests::yard::Yard;

use crate::trial::{URL, Way, assert_installed, origin, passes_in, told};

/// A page at each path, whose style and script are below it. The script writes what it has fetched.
fn page(path: &str) -> (&'static str, String) {
    let script = "const call = new XMLHttpRequest(); call.open('GET', location.pathname + '/text', false); \
                  call.send(); document.body.textContent = call.responseText;";
    match path.rsplit_once('/') {
        Some((_, "style.css")) => ("text/css", "body { background: green; color: white }".into()),
        Some((_, "script.js")) => ("text/javascript", script.into()),
        Some((_, "text")) => ("text/plain", "the page itself".into()),
        _ => (
            "text/html",
            format!(
                "<!doctype html><link rel=stylesheet href={path}/style.css><body>nothing yet\
                 <script src={path}/script.js></script>"
            ),
        ),
    }
}

#[test]
fn chromium_dumps_a_page_with_all_that_belongs_to_it() {
    let yard = Yard::of(origin(Way::Bearer, page));
    passes_in(&yard, Way::Bearer, &["chromium", "--headless", "--dump-dom", URL]);
    let seen = yard.origin.seen();
    for file in ["/open", "/open/style.css", "/open/script.js", "/open/text", "/private/style.css"] {
        assert!(seen.iter().any(|seen| seen.line() == format!("GET {file} HTTP/1.1")), "{file}");
    }
}

#[test]
fn chromium_draws_a_page() {
    assert_installed("chromium");
    let yard = Yard::of(origin(Way::Bearer, page));
    let url = format!("https://origin.test:{}/open", yard.origin.address.port());
    let program = ["chromium", "--headless", "--window-size=400,200", "--screenshot=page.png", &url];
    let (out, err) = told(&yard, &program);
    let drawn = fs::read(yard.ground.path("page.png")).unwrap_or_default();
    assert!(drawn.starts_with(b"\x89PNG") && drawn.len() > 1000, "{} bytes\n{out}{err}", drawn.len());
    // Width and height (PNG, 11.2.2).
    assert_eq!(drawn[16..24], [0, 0, 1, 144, 0, 0, 0, 200]);
}
