//! Unmodified heavy clients behind `outgate run`: each allowed, refused, and with a credential that it never holds.
//!
//! They are no part of `cargo test`: `cargo test -p tests --test clients` needs the Debian packages git, npm,
//! python3-pip, apt and a Rust toolchain, and says which of them is missing. Everything is served by the test.

mod apt;
mod cargo;
mod git;
mod npm;
mod pip;
mod shelf;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use data_encoding::BASE64;
use tests::{
    origin::Seen,
    sandboxed::PATH,
    yard::{SECRET, Yard, said},
};

/// What came of a script inside.
struct Ran {
    /// Whether its status was 0.
    well: bool,
    /// Its standard output.
    out: String,
    /// Its standard error, and the summary.
    err: String,
}

/// Runs a shell script inside, stopped by its first failure, and says how long that took.
fn inside(yard: &Yard, options: &[&str], secret: Option<&str>, script: &str) -> Ran {
    let mut command = yard.run(options, &["sh", "-euc", script]);
    match secret {
        // By another name it is to be found by its value.
        Some(value) => command.env("TOKEN", value).env("SAME", format!("password={SECRET}")),
        None => command.env_remove("TOKEN"),
    };
    let begun = Instant::now();
    let output = command.output().expect("it runs");
    let (out, err) = said(&output);
    println!("--- {script}\n{out}{err}--- {} in {:.2} s", output.status, begun.elapsed().as_secs_f64());
    Ran { well: output.status.success(), out, err }
}

/// Runs a script that may reach the origin, which must go well; its output.
fn allowed(yard: &Yard, script: &str) -> String {
    let ran = inside(yard, &["--allow=origin.test"], None, script);
    assert!(ran.well, "{}{}", ran.out, ran.err);
    ran.out
}

/// Runs a script that wants to reach `denied.test`: it fails, its person is told what was refused and how to allow it,
/// and nothing was dialled. What the client itself said is the answer.
fn refused(yard: &Yard, script: &str) -> String {
    let ran = inside(yard, &["--allow=origin.test"], None, script);
    assert!(!ran.well, "{}{}", ran.out, ran.err);
    assert_eq!(yard.origin.connections(), 0, "the origin saw something");
    let place = format!("denied.test:{}", yard.origin.address.port());
    let remedy = format!("To allow what was refused:  --allow {place}\n");
    assert!(ran.err.contains(&remedy), "{}", ran.err);
    let why = yard.ground.command(&yard.outgate, &["why"]).output().expect("it runs");
    let (why, _) = said(&why);
    for part in [
        &format!("https://{place}/"),
        "host_not_allowed",
        "denied.test: is not on the allow list",
        &format!("--allow {place}"),
    ] {
        assert!(why.contains(part), "{part}: {why}");
    }
    // The summary begins with an empty line and the gateway's name.
    let client = ran.err.split("\noutgate: ").next().unwrap_or_default();
    format!("{}{client}", ran.out)
}

/// Runs a script against an origin that demands a credential: without it the script fails; with `--secret` it works,
/// and neither its variables nor those of any process inside, nor its output, nor any file that it can see hold it.
fn with_a_secret_never_held(yard: &Yard, kind: &str, value: &str, script: &str) -> String {
    let ran = inside(yard, &["--allow=origin.test"], None, script);
    let seen = yard.origin.seen();
    assert!(!ran.well && !seen.is_empty(), "the origin demands a credential: {}{}", ran.out, ran.err);
    assert!(seen.iter().all(|seen| seen.fields("authorization").next().is_none()), "{seen:?}");
    let option = format!("--secret=token=env:TOKEN@origin.test{kind}");
    let look = format!("{script}\n{LOOK}");
    let ran = inside(yard, &["--allow=origin.test", &option], Some(value), &look);
    assert!(ran.well && ran.err.contains("secret token"), "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("SSL_CERT_FILE="), "its environment is there to be searched: {}", ran.out);
    assert!(!holding(&yard.ground.path(""), "to be found").is_empty(), "its files are there to be searched");
    // As it is, and as the origin was shown it.
    let seen = yard.origin.seen().pop().expect("requests came");
    let shown = seen.fields("authorization").next().and_then(|value| value.rsplit(' ').next());
    for form in [SECRET, shown.expect("a credential was shown")] {
        assert!(!ran.out.contains(form) && !ran.err.contains(form), "the output holds the secret");
        let held = holding(&yard.ground.path(""), form);
        assert!(held.is_empty(), "{held:?} hold the secret");
    }
    ran.out
}

/// Puts before the search what it would not see: variables and command lines of every process, the folder that only the
/// sandbox has, and something to be found.
const LOOK: &str = "env; mkdir own; cp /dev/shm/outgate/* own 2>/dev/null || :; echo to be found >own/found; \
                    cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'";

/// Files below this folder that hold the text; the gateway's own programs are not looked at.
fn holding(folder: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        let (path, kind) = (entry.path(), entry.file_type().expect("a type"));
        if kind.is_dir() {
            found.extend(holding(&path, text));
        } else if kind.is_file()
            && !path.file_name().is_some_and(|name| OWN_PROGRAMS.iter().any(|own| name == *own))
        {
            let content = fs::read(&path).expect("a file");
            found.extend(content.windows(text.len()).any(|window| window == text.as_bytes()).then_some(path));
        }
    }
    found
}

const OWN_PROGRAMS: [&str; 3] = ["in-sandbox", "outgate", "outgate-dataplane"];

/// Answers 401 where a credential is demanded and the request has another one or none; whether it did.
fn turned_away(demanded: Option<&str>, seen: &Seen, out: &mut dyn Write) -> io::Result<bool> {
    let Some(demanded) = demanded else { return Ok(false) };
    if seen.fields("authorization").eq([demanded]) {
        return Ok(false);
    }
    out.write_all(
        b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"origin\"\r\nContent-Length: 0\r\n\r\n",
    )?;
    out.flush()?;
    Ok(true)
}

/// The field that user and password make.
fn basic(user_and_password: &str) -> String {
    format!("Basic {}", BASE64.encode(user_and_password.as_bytes()))
}

/// A client must be there, where an ordinary user finds it.
///
/// # Panics
/// With the Debian package that has it.
fn needs(client: &[&str], package: &str) {
    let output = Command::new(client[0]).args(&client[1..]).env("PATH", PATH).output();
    let there = output.is_ok_and(|output| output.status.success());
    assert!(there, "`{}` does not work here; install the Debian package {package}", client.join(" "));
}
