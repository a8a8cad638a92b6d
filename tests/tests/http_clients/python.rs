//! Python, by the clients that people install, with the authorities that each brings.

use tests::yard::Yard;

use crate::trial::{self, URL, Way, passes};

/// Brings the virtual environment.
pub fn bring(yard: &Yard) {
    trial::bring(yard, "python-clients", "python-clients");
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
