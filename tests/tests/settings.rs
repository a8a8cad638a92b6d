//! One file for one machine: what it can say, how mistakes are told, and that the plane takes it.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use tests::process::{Process, outgate, run, shipped_plane};

/// The settings that a reader of a section knows, from its own words about one that it does not.
fn known(said: &str) -> BTreeSet<String> {
    let (_, list) = said.split_once("expected").unwrap_or_else(|| panic!("no list in: {said}"));
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(|error| format!("{error}: ")).collect()
}

#[test]
fn every_setting_of_a_plane_can_be_written_in_the_file_of_serve() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    for section in ["", "dns", "upstream"] {
        let header = |name: &str| if name.is_empty() { String::new() } else { format!("[{name}]\n") };
        fs::write(&file, format!("{}qqqqqqqqqqqq = 1\n", header(section))).unwrap();
        let mut plane = known(&chain(&dataplane::config::Config::read(&file).unwrap_err()));
        let whole = ["plane", section].join(".");
        fs::write(&file, format!("{}qqqqqqqqqqqq = 1\n", header(whole.trim_end_matches('.')))).unwrap();
        let ours = known(&control::config::Config::read(&file).unwrap_err().to_string());
        // What `serve` itself says to its plane.
        plane.retain(|name| !["stateDir", "control"].contains(&name.as_str()));
        assert_eq!(
            ours, plane,
            "control/src/config.rs must know what dataplane/src/config.rs knows: [{section}]"
        );
    }
}

fn serve(folder: &Path, settings: &str) -> Command {
    fs::write(folder.join("outgate.toml"), settings).unwrap();
    let mut command = Command::new(outgate());
    command.arg("serve").arg("--config").arg(folder.join("outgate.toml"));
    command.env("OUTGATE_DATAPLANE", shipped_plane()).stdin(Stdio::null());
    command
}

#[test]
fn serve_with_a_file_says_where_everything_is_and_its_plane_has_the_settings() {
    let folder = tempfile::tempdir().unwrap();
    let settings = "state = \"here\"\nlisten = \"127.0.0.1:0\"\n\
                    [plane]\nshards = 1\nproxy = [\"127.0.0.1:0\"]\nrecords = \"audit.jsonl\"\n";
    let mut process = Process::start(&mut serve(folder.path(), settings));
    process.told("explicit proxy on 127.0.0.1:");
    let at = |path: &str| folder.path().join(path).display().to_string();
    assert_eq!(process.told("state  "), at("here"));
    assert_eq!(process.told("api    "), at("here/api.sock"));
    assert_eq!(process.told("attach "), at("here/plane/attach.sock"));
    assert_eq!(process.told("audit  "), at("audit.jsonl"));
    assert!(process.end(), "{}", process.said());
    assert!(folder.path().join("audit.jsonl").is_file());
}

#[test]
fn a_mistake_in_the_file_is_told_by_line_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let settings = "state = \"here\"\n[plane]\nprxy = [\"127.0.0.1:0\"]\n";
    let (well, said) = run(&mut serve(folder.path(), settings));
    assert!(
        !well && said.contains("outgate.toml:3:1: unknown field `prxy`; did you mean `proxy`?"),
        "{said}"
    );
    assert!(!folder.path().join("here").exists());
    let mut check = Command::new(outgate());
    let (well, again) = run(check.args(["config", "check"]).arg(folder.path().join("outgate.toml")));
    assert!(!well && again.contains("outgate.toml:3:1:"), "{again}");
}

#[test]
fn the_defaults_are_a_sound_file() {
    let folder = tempfile::tempdir().unwrap();
    let (well, defaults) = run(Command::new(outgate()).args(["config", "defaults"]));
    assert!(well && defaults.lines().filter(|line| line.starts_with("# ")).count() > 20, "{defaults}");
    fs::write(folder.path().join("outgate.toml"), defaults).unwrap();
    let (well, said) = run(Command::new(outgate()).current_dir(folder.path()).args(["config", "check"]));
    assert!(well && said.contains("outgate.toml is sound") && said.contains("outgate-state"), "{said}");
}

#[test]
fn shells_take_their_completions() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let (well, script) = run(Command::new(outgate()).args(["completions", shell]));
        assert!(well && script.contains("set-outbound-by-host") && script.contains("preflight"), "{shell}");
        if shell == "bash" {
            fs::write(folder.path().join("script"), script).unwrap();
            let (sound, said) = run(Command::new("bash").arg("-n").arg(folder.path().join("script")));
            assert!(sound, "{said}");
        }
    }
}
