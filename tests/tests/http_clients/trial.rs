//! What every client is put through.

use std::{
    io::{self, Write},
    path::Path,
    process::Command,
};

use data_encoding::BASE64;
use tests::{
    checkout,
    origin::{Origin, Seen},
    sandboxed::PATH,
    yard::{SECRET, Yard, said},
};

/// Stands for the address of the page, in the words of a command.
pub const URL: &str = "{url}";

/// Starts its arguments, then says all that can be seen inside: what every process was given, and every file of HOME
/// (the programs of the gateway and brought libraries apart, which are there before any secret).
const LAY_OPEN: &str = "timeout 100 \"$@\"; status=$?; env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline; \
                        find \"$HOME\" \\( -name python-clients -o -name node_modules \\) -prune -o -type f ! -name 'outgate*' \
                        ! -name in-sandbox -exec cat {} +; exit $status";

/// How a credential is put on a request.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    Bearer,
    Basic,
    Header,
    Query,
}

impl Way {
    /// The option, and the value of the variable that it names.
    fn secret(self) -> (&'static str, String) {
        match self {
            Self::Bearer => ("--secret=token=env:TOKEN@origin.test", SECRET.into()),
            Self::Basic => ("--secret=token=env:TOKEN@origin.test:basic", format!("me:{SECRET}")),
            Self::Header => ("--secret=token=env:TOKEN@origin.test:header=X-Api-Key", SECRET.into()),
            Self::Query => ("--secret=token=env:TOKEN@origin.test:query=key", SECRET.into()),
        }
    }

    /// What the request holds then.
    pub fn shown(self) -> String {
        match self {
            Self::Bearer => format!("Bearer {SECRET}"),
            Self::Basic => format!("Basic {}", BASE64.encode(format!("me:{SECRET}").as_bytes())),
            Self::Header => SECRET.into(),
            Self::Query => format!("key={SECRET}"),
        }
    }

    /// Whether this request holds it.
    pub fn is_shown(self, seen: &Seen) -> bool {
        match self {
            Self::Query => {
                let query = seen.line().split(' ').nth(1).and_then(|target| target.split_once('?'));
                query.is_some_and(|(_, query)| query.split('&').any(|pair| pair == self.shown()))
            }
            Self::Bearer | Self::Basic => seen.fields("authorization").eq([self.shown()]),
            Self::Header => seen.fields("x-api-key").eq([self.shown()]),
        }
    }
}

/// An origin whose pages below `/private` are for those who show the credential. `pages` gives the kind and the text of
/// each, by its path.
pub fn origin(way: Way, pages: impl Fn(&str) -> (&'static str, String) + Send + Sync + 'static) -> Origin {
    Origin::tls(&["origin.test"], move |seen, out| {
        let target = seen.line().split(' ').nth(1).unwrap_or_default();
        if target.starts_with("/private") && !way.is_shown(seen) {
            return answer(out, "401 Unauthorized", "text/plain", "who are you?");
        }
        let (kind, body) = pages(target.split('?').next().unwrap_or_default());
        answer(out, "200 OK", kind, &body)
    })
}

/// Answers with this status and body.
pub fn answer(out: &mut dyn Write, status: &str, kind: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    write!(out, "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}")?;
    out.flush()
}

/// What a person sees of a refused page of `denied.test`: the body and the summary.
pub fn assert_refusal_is_told(yard: &Yard, out: &str, err: &str) {
    assert!(out.contains("host_not_allowed"), "the code:\n{out}{err}");
    assert!(out.contains("denied.test: is not on the allow list"), "the sentence:\n{out}{err}");
    assert_summary_tells(yard, err);
}

/// The summary alone.
pub fn assert_summary_tells(yard: &Yard, err: &str) {
    let option = format!(" --allow denied.test:{}", yard.origin.address.port());
    let told = err.lines().find_map(|line| line.strip_prefix("To allow what was refused: "));
    assert!(told.is_some_and(|told| told.contains(&option)), "the remedy:\n{err}");
}

/// Nothing of this output shows the credential, in any form in which it travels.
pub fn assert_not_held(way: Way, seen_inside: &str) {
    for needle in [SECRET.to_owned(), way.shown(), BASE64.encode(SECRET.as_bytes())] {
        assert!(!seen_inside.contains(&needle), "{needle} is seen inside");
    }
}

/// Fails where a client is not there, and says what brings it.
pub fn assert_installed(program: &str) {
    let found = std::env::split_paths(PATH).any(|folder| folder.join(program).is_file());
    assert!(
        found,
        "{program} is missing; the step `heavy clients` of .ci/run installs what these tests need"
    );
}

/// Puts libraries that `.ci/run` made below `target` into the yard, as this folder: folders on the way to the original
/// may be closed to the user.
pub fn bring(yard: &Yard, made: &str, name: &str) {
    let made = checkout().join("target").join(made);
    assert!(made.exists(), "{} is missing; the step `heavy clients` of .ci/run makes it", made.display());
    let copy = |how: &str, to: &Path| {
        let copied = Command::new("cp").arg(how).arg(&made).arg(to).output();
        copied.expect("cp runs").status.success()
    };
    // Links where it is one file system.
    let to = yard.ground.path(name);
    assert!(copy("-al", &to) || copy("-aT", &to), "a copy of {}", made.display());
}

/// `outgate run` of a command after which everything inside is laid open, with a secret.
pub fn laid_open(yard: &Yard, way: Way, command: &[&str]) -> Command {
    let (option, value) = way.secret();
    let script = [&["sh", "-c", LAY_OPEN, "sh"], command].concat();
    let mut run = yard.run(&["--allow=origin.test", option], &script);
    run.env("TOKEN", value);
    run
}

/// What a command says inside `outgate run` that may reach `origin.test`. One that hangs is ended.
pub fn told(yard: &Yard, command: &[&str]) -> (String, String) {
    let command = [&["timeout", "100"], command].concat();
    said(&yard.run(&["--allow=origin.test"], &command).output().expect("outgate starts"))
}

/// A client that prints the body of any answer passes at an origin with one page.
pub fn passes(way: Way, command: &[&str], prepare: impl Fn(&Yard)) {
    let yard = Yard::of(origin(way, |_| ("text/plain", "the page itself".to_owned())));
    prepare(&yard);
    passes_in(&yard, way, command);
}

/// It gets an allowed page, the refusal of another, no private page by itself, and that page by a credential which it
/// never holds.
pub fn passes_in(yard: &Yard, way: Way, command: &[&str]) {
    // The others are brought by the test.
    if !command[0].contains('/') {
        assert_installed(command[0]);
    }
    let port = yard.origin.address.port().to_string();
    let to = |host: &str, path: &str| -> Vec<String> {
        let url = format!("https://{host}:{port}{path}");
        let words = [(URL, url.as_str()), ("{host}", host), ("{port}", &port), ("{path}", path)];
        let word =
            |word: &&str| words.iter().fold((*word).to_owned(), |word, (name, is)| word.replace(name, is));
        command.iter().map(word).collect()
    };
    let told = |words: &[String]| told(yard, &words.iter().map(String::as_str).collect::<Vec<_>>());

    let (out, err) = told(&to("origin.test", "/open"));
    assert!(out.contains("the page itself"), "allowed:\n{out}{err}");
    let seen = yard.origin.seen().len();

    let (out, err) = told(&to("denied.test", "/open"));
    assert_refusal_is_told(yard, &out, &err);
    assert_eq!(yard.origin.seen().len(), seen, "the origin saw what was refused");

    let private = to("origin.test", "/private");
    let (out, err) = told(&private);
    assert!(!out.contains("the page itself"), "without a credential:\n{out}{err}");
    let seen = yard.origin.seen();
    assert!(seen.iter().any(|seen| seen.line().contains(" /private")), "it did not ask:\n{out}{err}");

    let words: Vec<&str> = private.iter().map(String::as_str).collect();
    let (out, err) = said(&laid_open(yard, way, &words).output().expect("outgate starts"));
    assert!(out.contains("the page itself"), "with it:\n{out}{err}");
    assert!(yard.origin.seen()[seen.len()..].iter().any(|seen| way.is_shown(seen)), "{way:?} is attached");
    assert!(err.contains("secret token"), "{err}");
    assert!(
        out.contains("TMPDIR=") && out.contains("allowedHosts = []"),
        "variables and files are laid open"
    );
    assert_not_held(way, &format!("{out}{err}"));
}
