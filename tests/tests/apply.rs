//! `outgate apply`, `diff` and `get` as a person uses them, against a control process.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use tests::{
    guests::guest,
    process::{Control, outgate},
};

const SECRET: &str = "ghp_hush-41d7";

struct Desk {
    folder: tempfile::TempDir,
    control: Control,
}

/// How it ended, and what it said.
struct Said {
    status: i32,
    out: String,
    err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let said = Self {
            status: output.status.code().expect("not killed"),
            out: text(&output.stdout),
            err: text(&output.stderr),
        };
        assert!(!said.out.contains(SECRET) && !said.err.contains(SECRET), "a value is never said");
        said
    }
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let control = Control::start(&folder.path().join("state"));
        let desk = Self { folder, control };
        desk.write(
            "policy/agent.toml",
            "[templates.agent]\nallowedHosts = [\"api.github.com\"]\n\
             rules = [{ host = \"api.github.com\", actions = [{ bearer = { secret = \"github\" } }] }]\n\
             [secrets.github]\nvalue = { env = \"GITHUB_TOKEN\" }\nhosts = [\"api.github.com\"]\n",
        );
        desk.write(
            "policy/boxes.yaml",
            "sandboxes:\n  box:\n    template: agent\n    labels: {team: blue}\n",
        );
        desk
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn say(&self, arguments: &[&str]) -> Said {
        let mut command = Command::new(outgate());
        command.current_dir(self.path()).env("GITHUB_TOKEN", SECRET);
        command.arg("--state").arg(&self.control.state).args(arguments).output().unwrap().into()
    }

    fn state(&self) -> String {
        self.control.call("GET", "/v1/state", b"").1
    }
}

#[test]
fn a_folder_is_applied_once_and_the_second_time_nothing_changes() {
    let desk = Desk::new();
    let would = desk.say(&["diff", "-f", "policy"]);
    assert_eq!((would.status, would.err.as_str()), (1, ""), "{}", would.out);
    assert!(would.out.contains("+ sandbox box") && would.out.contains("+   team: blue"), "{}", would.out);
    assert!(!desk.state().contains("agent"), "a diff changes nothing");

    let done = desk.say(&["apply", "--wait", "-f", "policy"]);
    assert_eq!((done.status, done.err.as_str()), (0, ""), "{}", done.out);
    assert!(done.out.contains("added template agent") && done.out.contains("3 changes"), "{}", done.out);
    assert!(done.out.contains("every plane enforces it"), "{}", done.out);

    let again = desk.say(&["apply", "-f", "policy"]);
    assert!(again.status == 0 && again.out.starts_with("nothing changed"), "{}", again.out);
    let none = desk.say(&["diff", "-f", "policy"]);
    assert_eq!((none.status, none.out.as_str()), (0, ""));
}

#[test]
fn a_diff_shows_the_lines_and_of_a_secret_only_that_its_value_is_another() {
    let desk = Desk::new();
    assert_eq!(desk.say(&["apply", "-f", "policy"]).status, 0);
    let agent = fs::read_to_string(desk.path().join("policy/agent.toml")).unwrap();
    let agent = agent.replace("[\"api.github.com\"]\nrules", "[\"api.github.com\", \"pypi.org\"]\nrules");
    desk.write("policy/agent.toml", &agent.replace("{ env = \"GITHUB_TOKEN\" }", "{ file = \"../token\" }"));
    desk.write("token", "another\n");
    let said = desk.say(&["diff", "-f", "policy"]);
    assert_eq!(said.status, 1);
    for line in ["~ template agent", "  +   - pypi.org", "~ secret github", "  ~ value: another one than now"]
    {
        assert!(said.out.lines().any(|found| found == line), "{line} is missing:\n{}", said.out);
    }
    assert!(!said.out.contains("another\n") && !said.out.contains("sandbox"), "{}", said.out);
}

#[test]
fn what_is_wrong_in_one_file_keeps_all_of_them_out_and_is_told_by_line() {
    let desk = Desk::new();
    desk.write("policy/more.yaml", "sandboxes:\n  other:\n    template: agnet\n");
    let said = desk.say(&["apply", "-f", "policy"]);
    assert_eq!(said.status, 1);
    assert!(said.err.contains("more.yaml:3:5: sandbox other: template agnet does not exist"), "{}", said.err);
    desk.write("policy/more.yaml", "templates:\n  u:\n    allowedHosts: [a.b, 'https://a.b']\n");
    let said = desk.say(&["diff", "-f", "policy"]);
    assert_eq!(said.status, 2, "trouble is not a difference: {}", said.err);
    assert!(said.err.contains("more.yaml:3:25: template u: `allowedHosts[1]`"), "{}", said.err);
    desk.write("policy/more.yaml", "secrets:\n  k: {value: ghp_hush-41d7, hosts: [a.b]}\n");
    assert!(desk.say(&["apply", "-f", "policy"]).err.contains("value = { env = \"NAME\" }"));
    assert!(!desk.state().contains("agent"), "nothing was changed: {}", desk.state());
}

#[test]
fn a_handler_is_published_with_the_policy_that_names_it_and_kept_out_with_it() {
    let desk = Desk::new();
    fs::create_dir(desk.path().join("policy/modules")).unwrap();
    fs::write(desk.path().join("policy/modules/h.wasm"), guest("", "i64.const 0")).unwrap();
    desk.write(
        "policy/handler.yaml",
        "handlers:\n  h: {file: modules/h.wasm}\ntemplates:\n  t:\n    outbound: {handler: h}\n",
    );
    desk.write("policy/more.toml", "[templates.u]\noutbound = { handler = \"g\" }\n");
    let said = desk.say(&["apply", "-f", "policy"]);
    assert!(said.err.contains("more.toml:2:14: template u: handler g does not exist"), "{}", said.err);
    assert!(!desk.state().contains("module"), "{}", desk.state());

    fs::remove_file(desk.path().join("policy/more.toml")).unwrap();
    let done = desk.say(&["apply", "-f", "policy"]);
    assert!(done.status == 0 && done.out.contains("added handler h"), "{}{}", done.out, done.err);
    assert!(desk.say(&["apply", "-f", "policy"]).out.starts_with("nothing changed"));
    let foreign = wat::parse_str("(module (import \"env\" \"now\" (func)))").unwrap();
    fs::write(desk.path().join("policy/modules/h.wasm"), foreign).unwrap();
    let said = desk.say(&["apply", "-f", "policy"]);
    assert!(said.err.contains("handler.yaml:2:7: handler h:") && said.err.contains("env"), "{}", said.err);
}

#[test]
fn what_get_prints_can_be_applied_in_every_format() {
    let desk = Desk::new();
    assert_eq!(desk.say(&["apply", "-f", "policy"]).status, 0);
    for format in ["toml", "yaml", "json"] {
        let got = desk.say(&["get", "-o", format]);
        assert!(got.status == 0 && got.out.contains("api.github.com"), "{}", got.out);
        let file = format!("state.{format}");
        desk.write(&file, &got.out);
        let same = desk.say(&["diff", "-f", &file]);
        assert_eq!((same.status, same.out.as_str(), same.err.as_str()), (0, "", ""), "{}", got.out);
    }
    let one = desk.say(&["get", "sandbox", "box", "-o", "yaml"]);
    assert!(one.out.contains("team: blue") && !one.out.contains("templates"), "{}", one.out);
    assert!(desk.say(&["get", "sandbox", "nobody"]).err.contains("no sandbox named nobody"));
}

#[test]
fn without_control_the_remedy_is_told_after_the_files_were_checked() {
    let mut desk = Desk::new();
    desk.control.process.end();
    assert!(desk.say(&["apply", "-f", "policy"]).err.contains("outgate serve"));
    desk.write("policy/agent.toml", "[templates.agent]\nallowedHost = []\n");
    let said = desk.say(&["apply", "-f", "policy"]);
    assert!(
        said.err.contains("agent.toml:2:1") && said.err.contains("did you mean `allowedHosts`?"),
        "{}",
        said.err
    );
}
