//! What stands at the end of each command's help: what a person would type.

use clap::Command;

/// Commands by their words, and their examples.
const EXAMPLES: &[(&str, &str)] = &[
    (
        "",
        "First steps:\n  \
         outgate preflight                  will this machine do?\n  \
         outgate demo                       see everything work, in half a minute\n  \
         outgate run -- CMD                 your own program behind the gateway, by one command\n  \
         outgate serve                      control and a plane on this machine\n  \
         outgate apply -f policy/           policies from files; `outgate get` prints them\n\n\
         Each command has examples: outgate apply --help",
    ),
    (
        "run",
        "Nothing may be reached unless it is said. The program runs as you, in namespaces of its own, with no network but\n\
         the gateway; names and TLS of any port go through it, everything else is refused at once. What was refused is\n\
         shown at the end with the options that would allow it.\n\n\
         Limits: the program can write your files, also those that other programs run later (~/.bashrc), and connect to\n\
         Unix sockets that appear in shared folders after it has started. Its exit status is that of this command.\n\
         While --ask asks, everything inside is stopped; a program that has prepared a timer to wake it can still write to\n\
         the terminal, so answer for programs that lie by `outgate question`, behind a gateway that serves.\n\
         Where Chromium is installed and has never run, an empty ~/.pki stays: there it is told to trust the gateway.\n\n\
         With --via the gateway is one that runs already. Whoever may use the socket of its API is its operator; what this\n\
         command puts there (a sandbox, its policy, secrets and handlers, under a name of its own) is gone when it ends,\n\
         also when it is killed. Handlers there find secrets by the names that the gateway has.\n\n\
         Examples:\n  \
         outgate run --allow github.com -- git clone https://github.com/acme/site\n  \
         outgate run --allow api.github.com --secret token=env:GITHUB_TOKEN@api.github.com -- ./report.py\n  \
         outgate run --secret git=file:token@github.com:basic=me --allow github.com -- git push\n  \
         outgate run --handler get_only.wasm --allow '*.pypi.org' -- pip download requests\n  \
         outgate run --ask -- claude              asks you about each host that nothing allows yet\n  \
         outgate run --observe -- npm install     lets through what is safe to dial; prints the least policy\n  \
         outgate run --via --allow pypi.org -- pip download requests    behind `outgate serve`, with others",
    ),
    (
        "why",
        "Examples:\n  \
         outgate why                                 what the last run refused, why, and what would allow it\n  \
         outgate why -n 3 --records records.jsonl    the same of a running gateway",
    ),
    (
        "serve",
        "Examples:\n  \
         outgate serve                                     everything below ./outgate-state\n  \
         outgate config defaults > outgate.toml\n  \
         outgate serve --config outgate.toml\n  \
         outgate serve --no-plane --listen 10.0.0.5:7443   control alone; planes join from other machines",
    ),
    ("config", "Examples:\n  outgate config defaults > outgate.toml\n  outgate config check outgate.toml"),
    ("config defaults", "Example:\n  outgate config defaults > outgate.toml"),
    ("config check", "Example:\n  outgate config check outgate.toml && outgate serve --config outgate.toml"),
    (
        "preflight",
        "Examples:\n  \
         outgate preflight                     each thing is fine, slower, or to be fixed by the command below it\n  \
         outgate preflight && outgate serve    status 1 when something has to be fixed",
    ),
    ("demo", "Example:\n  outgate demo"),
    (
        "apply",
        "A file holds templates, sandboxes, handlers and secrets by name, in TOML, YAML or JSON:\n\n  \
         [templates.agent]\n  \
         allowedHosts = [\"api.github.com\"]\n  \
         rules = [{ host = \"api.github.com\", actions = [{ bearer = { secret = \"github\" } }] }]\n\n  \
         [secrets.github]\n  \
         value = { env = \"GITHUB_TOKEN\" }    # or { file = \"PATH\" }; never the value itself\n  \
         hosts = [\"api.github.com\"]\n\n  \
         [handlers.readOnly]\n  \
         file = \"read_only.wasm\"\n\n  \
         [sandboxes.box]\n  \
         template = \"agent\"\n  \
         overrides = { deniedHosts = [\"gist.github.com\"] }\n\n\
         Actions of rules: deny, header, bearer, basic, query; and for the connection\n  \
         { clientCertificate = { secret = \"db\" } }                 shown in TLS; chain and key in PEM form\n  \
         { passthrough = {} }                                      TLS to the host is relayed unread, by its server name\n  \
         { upstream = { via = \"socks5://proxy.corp:1080\", secret = \"proxy\" } }     or http://; never around it\n  \
         { upstream = { sourceAddress = \"10.0.0.7\" } }           an address of the plane's machine\n  \
         { upgrade = [\"tcp\", \"SPDY/3.1\"] }                     requests may change to these; a WebSocket always may\n\n\
         Examples:\n  \
         outgate apply -f policy/            every file of a folder, as one change\n  \
         outgate --wait apply -f agent.toml  answers when every plane enforces it",
    ),
    (
        "diff",
        "Examples:\n  \
         outgate diff -f policy/                              status 0: the same, 1: not, 2: trouble\n  \
         outgate diff -f policy/ || outgate apply -f policy/",
    ),
    (
        "get",
        "Examples:\n  \
         outgate get                          everything, as `outgate apply` takes it\n  \
         outgate get sandboxes -o yaml\n  \
         outgate get template agent -o json",
    ),
    (
        "question",
        "A template says `ask = { hosts = [\"*\"] }`: what nothing allows waits for an answer, a minute unless it says\n\
         `timeoutMs`.\n\n\
         Examples:\n  \
         outgate question list --follow          one line of JSON whenever something is asked or settled\n  \
         outgate question answer 0a1b2c3d allow",
    ),
    ("question list", "Examples:\n  outgate question list\n  outgate question list --follow"),
    (
        "question answer",
        "Examples:\n  \
         outgate question answer 0a1b2c3d allow                 this once\n  \
         outgate --wait question answer 0a1b2c3d allow --host   and from now on\n  \
         outgate question answer 0a1b2c3d deny --for 600        and for ten minutes",
    ),
    (
        "question forget",
        "Examples:\n  outgate question forget box api.github.com\n  outgate --wait question forget box",
    ),
    ("sandbox", "Example:\n  outgate sandbox put box --template agent --allow api.github.com '*.pypi.org'"),
    ("sandbox put", "Example:\n  outgate --wait sandbox put box --template agent --allow api.github.com"),
    ("sandbox get", "Example:\n  outgate sandbox get box"),
    ("sandbox rm", "Example:\n  outgate sandbox rm box"),
    ("sandbox list", "Example:\n  outgate sandbox list"),
    (
        "sandbox set-allowed-hosts",
        "Examples:\n  \
         outgate sandbox set-allowed-hosts box api.github.com '*.pypi.org'\n  \
         outgate sandbox set-allowed-hosts box          an empty list: nothing is allowed",
    ),
    ("sandbox set-denied-hosts", "Example:\n  outgate --wait sandbox set-denied-hosts box gist.github.com"),
    (
        "sandbox set-outbound",
        "Example:\n  outgate sandbox set-outbound box allowHosts --params '{\"allowedHostnames\": [\"pypi.org\"]}'",
    ),
    (
        "sandbox set-outbound-by-host",
        "Example:\n  outgate sandbox set-outbound-by-host box api.github.com auth --params '{\"secret\": \"github\"}'",
    ),
    ("sandbox rm-outbound", "Example:\n  outgate sandbox rm-outbound box"),
    ("sandbox rm-outbound-by-host", "Example:\n  outgate sandbox rm-outbound-by-host box api.github.com"),
    (
        "sandbox lockdown",
        "Example:\n  outgate sandbox lockdown box-1 box-2     open connections are cut, too",
    ),
    ("sandbox ca", "Example:\n  outgate sandbox ca box > ca.pem"),
    ("template", "Example:\n  outgate template put agent --file agent.json"),
    (
        "template put",
        "Example:\n  echo '{\"allowedHosts\": [\"api.github.com\"]}' > agent.json\n  \
         outgate template put agent --file agent.json",
    ),
    ("template get", "Example:\n  outgate template get agent"),
    ("template rm", "Example:\n  outgate template rm agent"),
    ("template list", "Example:\n  outgate template list"),
    (
        "handler",
        "From nothing to a handler that runs:\n  \
         outgate handler new read-only\n  \
         outgate handler build read-only\n  \
         outgate handler test MODULE.wasm --request https://example.com/\n  \
         outgate handler put readOnly MODULE.wasm\n  \
         outgate sandbox set-outbound box readOnly",
    ),
    (
        "handler new",
        "Example:\n  outgate handler new read-only && cargo test --manifest-path read-only/Cargo.toml",
    ),
    ("handler build", "Example:\n  module=$(outgate handler build read-only)"),
    (
        "handler test",
        "Examples:\n  \
         outgate handler test h.wasm --request https://api.github.com/user\n  \
         outgate handler test h.wasm --request request.http --host api.github.com --label team=blue\n  \
         outgate handler test h.wasm -X POST -H 'X-Key: 1' --request https://a.example/ --params '{\"n\": 1}' --json\n  \
         curl -si https://a.example/ -o answer.http\n  \
         outgate handler test h.wasm --request https://a.example/ --body upload.bin --answer answer.http --piece 100",
    ),
    ("handler put", "Example:\n  outgate --wait handler put readOnly read_only.wasm"),
    ("handler rm", "Example:\n  outgate handler rm readOnly"),
    ("handler list", "Example:\n  outgate handler list"),
    ("secret", "Example:\n  outgate secret put github --value-file token --host api.github.com"),
    (
        "secret put",
        "Examples:\n  \
         outgate secret put github --value-file token --host api.github.com\n  \
         pass show github | outgate secret put github --value-file - --host api.github.com\n  \
         cat client.pem client.key | outgate secret put db --value-file - --host db.corp    for clientCertificate\n  \
         outgate secret put proxy --value-file login --host proxy.corp --allow-plaintext    user:password for upstream.via",
    ),
    ("secret rm", "Example:\n  outgate secret rm github"),
    (
        "secret list",
        "Example:\n  outgate secret list                  names, versions and hosts; never a value",
    ),
    (
        "plane",
        "Example:\n  outgate plane token > join-token     then start a plane with control.joinTokenFile",
    ),
    ("plane list", "Example:\n  outgate plane list"),
    ("plane rm", "Example:\n  outgate plane rm node-7"),
    ("plane token", "Example:\n  outgate plane token > join-token"),
    (
        "attach",
        "Examples:\n  \
         outgate attach box                        prints the password for the explicit proxy, once\n  \
         outgate attach box --source 10.7.0.2/32   by an address that only this sandbox can speak from",
    ),
    ("detach", "Example:\n  outgate detach box"),
    (
        "completions",
        "Examples:\n  \
         outgate completions bash > ~/.local/share/bash-completion/completions/outgate\n  \
         outgate completions zsh > ~/.zfunc/_outgate\n  \
         outgate completions fish > ~/.config/fish/completions/outgate.fish",
    ),
];

/// The command with its examples, where it has none of its own.
pub(super) fn with_examples(command: Command) -> Command {
    below(command, "")
}

fn below(command: Command, path: &str) -> Command {
    let found = EXAMPLES.iter().find(|(words, _)| *words == path);
    let command = match found {
        Some((_, text)) if command.get_after_help().is_none() => command.after_help(*text),
        _ => command,
    };
    command.mut_subcommands(|inner| {
        let path = format!("{path} {}", inner.get_name()).trim_start().to_owned();
        below(inner, &path)
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn walk(command: &Command, path: &str, found: &mut Vec<(String, Command)>) {
        found.push((path.to_owned(), command.clone()));
        for inner in command.get_subcommands() {
            walk(inner, format!("{path} {}", inner.get_name()).trim_start(), found);
        }
    }

    fn commands() -> Vec<(String, Command)> {
        let mut found = Vec::new();
        walk(&with_examples(Cli::command()), "", &mut found);
        found
    }

    #[test]
    fn every_command_and_argument_is_explained_and_every_command_has_an_example() {
        for (path, command) in commands() {
            assert!(command.get_about().is_some(), "outgate {path} does not say what it is for");
            assert!(command.get_after_help().is_some(), "outgate {path} has no example");
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                let name = argument.get_id();
                let known = ["help", "version"].contains(&name.as_str());
                assert!(known || argument.get_help().is_some(), "outgate {path}: {name} is not explained");
            }
        }
    }

    #[test]
    fn every_example_is_of_a_command_that_is_there_and_can_be_parsed() {
        let commands = commands();
        for (path, text) in EXAMPLES {
            assert!(commands.iter().any(|(known, _)| known == path), "there is no outgate {path}");
            let lines = text.lines().map(str::trim).filter(|line| line.starts_with("outgate "));
            for line in lines {
                let typed = line.split(['|', '>', '&', '#']).next().unwrap_or_default();
                // What follows wide space is an explanation.
                let mut words = words(typed.split("  ").next().unwrap_or_default());
                words.retain(|word| !word.is_empty());
                let parsed = with_examples(Cli::command()).try_get_matches_from(&words);
                let help = parsed.as_ref().is_err_and(|error| !error.use_stderr());
                assert!(parsed.is_ok() || help, "{line}: {}", parsed.unwrap_err());
            }
        }
    }

    /// Words as a shell splits them, quotes taken off.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut quoted) = (vec![String::new()], false);
        for letter in line.chars() {
            match letter {
                '\'' => quoted = !quoted,
                ' ' if !quoted => words.push(String::new()),
                _ => words.last_mut().into_iter().for_each(|word| word.push(letter)),
            }
        }
        words
    }
}
