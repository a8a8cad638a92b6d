//! The variables of a program inside: the caller's, without secrets and ways out, with those of trust.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use zeroize::Zeroizing;

use super::limits::SECRET_BYTES_MIN;
use super::trust::{JAVA_OPTIONS, Trust};

/// Variables that lead to an agent, an engine, a desktop, an editor or another terminal of the machine.
const WAYS_OUT: [&str; 39] = [
    "ALACRITTY_SOCKET",
    "BUILDKIT_HOST",
    "CONTAINERD_ADDRESS",
    "CONTAINER_HOST",
    "DBUS_SESSION_BUS_ADDRESS",
    "DBUS_SYSTEM_BUS_ADDRESS",
    "DISPLAY",
    "DOCKER_CONTEXT",
    "DOCKER_HOST",
    "GNOME_KEYRING_CONTROL",
    "GPG_AGENT_INFO",
    "I3SOCK",
    "ICEAUTHORITY",
    "JOURNAL_STREAM",
    "KITTY_LISTEN_ON",
    "LIBVIRT_DEFAULT_URI",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "NVIM",
    "NVIM_LISTEN_ADDRESS",
    "PULSE_SERVER",
    "SESSION_MANAGER",
    "SSH_AGENT_PID",
    "SSH_AUTH_SOCK",
    "STY",
    "SWAYSOCK",
    "TMUX",
    "TMUX_PANE",
    "VSCODE_GIT_IPC_AUTH_TOKEN",
    "VSCODE_GIT_IPC_HANDLE",
    "VSCODE_IPC_HOOK",
    "VSCODE_IPC_HOOK_CLI",
    "WATCHDOG_USEC",
    "WAYLAND_DISPLAY",
    "WEZTERM_UNIX_SOCKET",
    "WSL_INTEROP",
    "XAUTHORITY",
];
/// Variables that name a proxy, which nothing inside could reach; compared without regard to case.
const PROXIES: [&str; 10] = [
    "all_proxy",
    "ftp_proxy",
    "git_proxy_command",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "npm_config_https_proxy",
    "npm_config_noproxy",
    "npm_config_proxy",
    "cargo_http_proxy",
];
/// Variables by which names are looked up otherwise than resolv.conf says (resolv.conf(5), hostname(7)).
const NAMES: [&str; 3] = ["HOSTALIASES", "LOCALDOMAIN", "RES_OPTIONS"];
/// Settings of our own begin so; they are for the caller.
const OURS: &[u8] = b"OUTGATE_";

/// What must not be seen in the environment.
#[derive(Default)]
pub struct Hidden {
    /// Variables, by name.
    pub variables: Vec<OsString>,
    /// Values: every variable that holds one is removed, whatever it is called. Shorter ones than eight bytes are not
    /// looked for.
    pub values: Vec<Zeroizing<Vec<u8>>>,
}

/// Why a variable was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// It was to be hidden.
    Named,
    /// It holds a value that is to be hidden.
    SameValue,
    /// It leads out, would mislead, or is for the caller alone.
    WayOut,
}

/// A program's variables.
#[derive(Debug, Default)]
pub struct Environment {
    /// What it gets.
    pub variables: Vec<(OsString, OsString)>,
    /// What it does not get, by name.
    pub removed: Vec<(OsString, Removed)>,
}

/// Computes a program's variables from the caller's.
pub fn environment(
    inherited: impl IntoIterator<Item = (OsString, OsString)>,
    hidden: &Hidden,
    trust: &Trust,
) -> Environment {
    let mut environment = Environment::default();
    let mut java_options = trust.java_options.clone();
    for (name, value) in inherited {
        if let Some(why) = removed(&name, &value, hidden) {
            environment.removed.push((name, why));
        } else if name == JAVA_OPTIONS {
            // The last of two settings of one property counts.
            java_options = format!("{} {java_options}", value.to_string_lossy());
        } else if !trust.variables.iter().any(|(ours, _)| *ours == name) {
            environment.variables.push((name, value));
        }
    }
    environment.variables.extend(trust.variables.iter().cloned());
    environment.variables.push((JAVA_OPTIONS.into(), java_options.into()));
    environment
}

fn removed(name: &OsStr, value: &OsStr, hidden: &Hidden) -> Option<Removed> {
    let holds = |secret: &Zeroizing<Vec<u8>>| {
        let long = secret.len() >= SECRET_BYTES_MIN;
        long && value.as_bytes().windows(secret.len()).any(|window| window == &secret[..])
    };
    let lower = name.to_ascii_lowercase();
    if hidden.variables.iter().any(|secret| secret == name) {
        Some(Removed::Named)
    } else if hidden.values.iter().any(holds) {
        Some(Removed::SameValue)
    } else {
        let out = name.as_bytes().starts_with(OURS)
            || WAYS_OUT.iter().chain(&NAMES).any(|way| name == *way)
            || PROXIES.iter().any(|proxy| lower == *proxy);
        out.then_some(Removed::WayOut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::path::Path;

    fn trust() -> Trust {
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = rcgen::CertificateParams::new(vec!["a".into()]).unwrap().self_signed(&key).unwrap().pem();
        Trust::new(&pem, Path::new("/f"), None).unwrap()
    }

    fn of(inherited: &[(&str, &str)], hidden: &Hidden) -> (BTreeMap<String, String>, Vec<(String, Removed)>) {
        let inherited = inherited.iter().map(|(name, value)| (name.into(), value.into()));
        let computed = environment(inherited, hidden, &trust());
        let text = |text: OsString| text.into_string().unwrap();
        (
            computed.variables.into_iter().map(|(name, value)| (text(name), text(value))).collect(),
            computed.removed.into_iter().map(|(name, why)| (text(name), why)).collect(),
        )
    }

    #[test]
    fn a_secret_goes_by_its_name_and_by_its_value_under_any_other() {
        let hidden = Hidden {
            variables: vec!["GITHUB_TOKEN".into(), "SHORT".into()],
            values: vec![Zeroizing::new(b"ghp_0123456789".to_vec()), Zeroizing::new(b"a".to_vec())],
        };
        let (kept, removed) = of(
            &[
                ("GITHUB_TOKEN", "ghp_0123456789"),
                ("GH_TOKEN", "ghp_0123456789"),
                ("REMOTE", "https://me:ghp_0123456789@github.com"),
                ("SHORT", "a"),
                ("PATH", "/bin:/sbin"),
            ],
            &hidden,
        );
        assert_eq!(kept.get("PATH").map(String::as_str), Some("/bin:/sbin"));
        assert!(!kept.values().any(|value| value.contains("ghp_")), "{kept:?}");
        let named = |name: &str, why| removed.contains(&(name.to_owned(), why));
        assert!(named("GITHUB_TOKEN", Removed::Named) && named("SHORT", Removed::Named), "{removed:?}");
        assert!(named("GH_TOKEN", Removed::SameValue) && named("REMOTE", Removed::SameValue), "{removed:?}");
    }

    #[test]
    fn ways_out_proxies_and_our_own_settings_are_removed() {
        let inherited = [
            ("SSH_AUTH_SOCK", "/tmp/a"),
            ("HTTPS_PROXY", "http://p"),
            ("https_proxy", "http://p"),
            ("LOCALDOMAIN", "corp.example"),
            ("OUTGATE_STATE", "/s"),
            ("HOME", "/home/me"),
        ];
        let (kept, removed) = of(&inherited, &Hidden::default());
        assert_eq!((kept.get("HOME").map(String::as_str), removed.len()), (Some("/home/me"), 5));
    }

    #[test]
    fn ours_replace_what_was_trusted_and_java_keeps_its_options() {
        let inherited = [("SSL_CERT_FILE", "/corp.pem"), ("JAVA_TOOL_OPTIONS", "-Xmx1g")];
        let (kept, removed) = of(&inherited, &Hidden::default());
        assert_eq!(kept["SSL_CERT_FILE"], "/f/bundle.pem");
        assert!(kept["JAVA_TOOL_OPTIONS"].starts_with("-Xmx1g -Djavax.net.ssl.trustStore=/f/"), "{kept:?}");
        assert!(removed.is_empty());
    }
}
