//! Python, by the clients that people install, with the authorities that each brings.

use std::path::Path;
use std::process::Command;

use tests::{checkout, yard::Yard};

use crate::trial::{URL, Way, passes};

/// What the step `heavy clients` of `.ci/run` does too.
const MADE_BY: &str = "run in the checkout: /usr/bin/python3 -m venv target/python-clients && \
                       target/python-clients/bin/pip install -r tests/tests/http_clients/requirements.txt";

/// Puts the virtual environment into the yard: folders on the way to the original may be closed to the user.
pub fn bring(yard: &Yard) {
    let made = checkout().join("target/python-clients");
    assert!(made.join("bin/python3").exists(), "{} is missing; {MADE_BY}", made.display());
    let copy = |how: &str, to: &Path| {
        let copied = Command::new("cp").arg(how).arg(&made).arg(to).output();
        copied.expect("cp runs").status.success()
    };
    // Links where it is one file system.
    let to = yard.ground.path("python-clients");
    assert!(copy("-al", &to) || copy("-aT", &to), "a copy of {}", made.display());
}

fn client_passes(way: Way, script: &str) {
    passes(way, &["python-clients/bin/python3", "-c", script, URL], bring);
}

#[test]
fn urllib_of_the_system() {
    let script = "import sys, urllib.error, urllib.request as r\n\
                  try: print(r.urlopen(sys.argv[1]).read().decode())\n\
                  except urllib.error.HTTPError as error: print(error.read().decode())";
    passes(Way::Query, &["python3", "-c", script, URL], |_| {});
}

#[test]
fn requests() {
    client_passes(Way::Bearer, "import requests, sys; print(requests.get(sys.argv[1]).text)");
}

#[test]
fn httpx() {
    client_passes(Way::Header, "import httpx, sys; print(httpx.get(sys.argv[1]).text)");
}

#[test]
fn aiohttp() {
    let script = "import aiohttp, asyncio, sys\n\
                  async def main():\n\
                  \x20   async with aiohttp.ClientSession() as session:\n\
                  \x20       async with session.get(sys.argv[1]) as answer: print(await answer.text())\n\
                  asyncio.run(main())";
    client_passes(Way::Basic, script);
}
