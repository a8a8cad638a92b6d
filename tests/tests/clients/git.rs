//! git over HTTPS, against a real `git http-backend`.

use std::{path::PathBuf, process::Command, sync::Arc};

use tests::{
    cgi,
    origin::Origin,
    sandboxed::PATH,
    yard::{SECRET, Yard},
};

use super::{allowed, basic, needs, refused, turned_away, with_a_secret_never_held};

/// What a push carries, in bytes: beyond every buffer on the way, git's own `http.postBuffer` of 1 MiB among them, so
/// that it comes in chunks of no announced length.
const PUSHED_BYTES: usize = 20 << 20;

/// A server of one repository with one commit.
struct Forge {
    yard: Yard,
    folder: Arc<tempfile::TempDir>,
}

impl Forge {
    fn new(demanded: Option<String>) -> Self {
        needs(&["git", "--version"], "git");
        let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
        let root = Arc::clone(&folder);
        let yard = Yard::of(Origin::tls(&["origin.test"], move |seen, out| {
            if turned_away(demanded.as_deref(), seen, out)? {
                return Ok(());
            }
            let mut backend = git(root.path().into());
            backend.arg("http-backend").env("GIT_HTTP_EXPORT_ALL", "").env("GIT_PROJECT_ROOT", root.path());
            cgi::answer(backend, seen, out)
        }));
        let forge = Self { yard, folder };
        forge.serve("git init -q --bare -b main seed.git; git -C seed.git config http.receivepack true");
        // It would search for likeness among bytes that have none.
        forge.serve("git -C seed.git config pack.window 0");
        forge.serve("git clone -q seed.git work 2>/dev/null");
        forge.commit("first");
        forge
    }

    /// Runs a script beside the repository, outside of everything; what it says.
    fn serve(&self, script: &str) -> String {
        let mut command = Command::new("sh");
        surround(&mut command, self.folder.path().into());
        let output = command.args(["-euc", script]).output().expect("sh runs");
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    /// Someone else commits; its name.
    fn commit(&self, message: &str) -> String {
        self.serve(&format!(
            "cd work; git checkout -q -B main; echo {message} >grown; git add grown; git commit -qm {message}; \
             git push -q origin main; git rev-parse HEAD"
        ))
    }

    fn url(&self, host: &str) -> String {
        format!("https://{host}:{}/seed.git", self.yard.origin.address.port())
    }
}

fn git(folder: PathBuf) -> Command {
    let mut command = Command::new("git");
    surround(&mut command, folder);
    command
}

/// Nothing of the machine's settings, and somebody who commits.
fn surround(command: &mut Command, folder: PathBuf) {
    command.env_clear().env("PATH", PATH).env("GIT_CONFIG_NOSYSTEM", "1");
    for role in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{role}_NAME"), "a").env(format!("GIT_{role}_EMAIL"), "a@origin.test");
    }
    command.env("HOME", &folder).current_dir(folder);
}

/// Bytes that do not compress; the same for every seed, which is not 0 (xorshift64).
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(bytes / 8).flatten().collect()
}

/// Commits everything and pushes it.
const PUSH: &str = "git add --all; git -c user.name=b -c user.email=b@origin.test commit -qm second; \
                    git push -q origin main; git rev-parse HEAD";

#[test]
fn clone_fetch_and_a_push_of_twenty_mebibytes_work_and_the_server_has_every_byte() {
    let forge = Forge::new(None);
    let out =
        allowed(&forge.yard, &format!("git clone -q {} mine; cat mine/grown", forge.url("origin.test")));
    assert_eq!(out, "first\n");
    let second = forge.commit("second");
    // As many wants as are sent compressed.
    forge.serve("cd work; for n in $(seq 60); do git tag -am $n tag$n; done; git push -q --tags");
    let out = allowed(&forge.yard, "cd mine; git pull -q; git rev-parse HEAD; cat grown; git tag | wc -l");
    assert_eq!(out, format!("{second}\nsecond\n60\n"));
    assert!(forge.yard.origin.seen().iter().any(|seen| seen.fields("content-encoding").eq(["gzip"])));
    for (seed, version) in [(1, "HTTP/2"), (2, "HTTP/1.1")] {
        pushes(&forge, &noise(PUSHED_BYTES, seed), version);
    }
    let script = format!("git clone -q {} theirs; cd theirs; git rev-parse HEAD", forge.url("origin.test"));
    assert_eq!(allowed(&forge.yard, &script).trim(), forge.serve("git -C seed.git rev-parse main"));
}

/// The server has every byte of what is pushed in this version of HTTP.
fn pushes(forge: &Forge, noise: &[u8], version: &str) {
    forge.yard.ground.write("mine/noise", noise);
    std::fs::write(forge.folder.path().join("noise"), noise).expect("a folder takes files");
    let pushed = allowed(&forge.yard, &format!("cd mine; git config http.version {version}; {PUSH}"));
    let seen = forge.yard.origin.seen().pop().expect("the push is the last request");
    assert!(
        seen.body.len() > PUSHED_BYTES && seen.fields("transfer-encoding").eq(["chunked"]),
        "{}",
        seen.head
    );
    assert_eq!(
        forge.serve("git -C seed.git fsck --full --strict; git -C seed.git rev-parse main"),
        pushed.trim()
    );
    forge.serve("git -C seed.git cat-file blob main:noise | cmp - noise");
}

#[test]
fn refused_clone_fetch_and_push_are_explained_and_the_server_sees_nothing() {
    let forge = Forge::new(None);
    let url = forge.url("denied.test");
    let told = "remote: Refused by policy: denied.test: is not on the allow list";
    assert!(refused(&forge.yard, &format!("git clone {url} mine")).contains(told));
    let prepared = format!("git init -q -b main mine; cd mine; git remote add origin {url}; echo >grown");
    assert!(refused(&forge.yard, &format!("{prepared}; git fetch")).contains(told));
    assert!(refused(&forge.yard, &format!("cd mine; {PUSH}")).contains(told));
}

#[test]
fn private_repository_is_cloned_and_pushed_to_with_a_secret_that_git_never_holds() {
    let forge = Forge::new(Some(basic(&format!("git:{SECRET}"))));
    // Nobody is there to be asked for a password.
    let url = forge.url("origin.test");
    let script = format!(
        "export GIT_TERMINAL_PROMPT=0; rm -rf mine; git clone {url} mine; cd mine; echo more >more; {PUSH}; cd .."
    );
    let out = with_a_secret_never_held(&forge.yard, ":basic=git", SECRET, &script);
    let pushed = forge.serve("git -C seed.git rev-parse main");
    assert!(out.contains(&pushed), "{out}");
}
