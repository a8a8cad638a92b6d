//! Namespaces of an ordinary user: what `outgate run` and `outgate demo` put a program into.

use std::fs;
use std::process::{Command, ExitCode};

use super::NAMESPACES_COMMAND;
use super::page::Line;
use crate::sandbox::namespace::{Shown, separate};

const MAXIMUM: &str = "/proc/sys/user/max_user_namespaces";
/// Ubuntu 23.10 and later: capabilities in such a namespace are refused to programs without a profile.
const APPARMOR: &str = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
/// Debian's switch, which other kernels do not have.
const DEBIAN: &str = "/proc/sys/kernel/unprivileged_userns_clone";

/// Leaves the machine's namespaces and ends: the answer is the exit status, the reason stands on standard error.
pub fn try_main() -> ExitCode {
    match separate(Shown::Same) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Tries it in a process of its own.
pub fn look() -> Line {
    let tried = std::env::current_exe().and_then(|own| Command::new(own).arg(NAMESPACES_COMMAND).output());
    let refused = match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(error.to_string()),
    };
    let read = |path| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    judge(
        refused.as_deref(),
        &Switches { maximum: read(MAXIMUM), apparmor: read(APPARMOR), debian: read(DEBIAN) },
    )
}

/// What the kernel says about who may have one.
#[derive(Default)]
struct Switches {
    maximum: Option<String>,
    apparmor: Option<String>,
    debian: Option<String>,
}

fn judge(refused: Option<&str>, switches: &Switches) -> Line {
    let name = "user namespaces";
    let Some(refused) = refused else {
        return Line::fine(name, "one with a network, mounts and processes of its own was entered and left");
    };
    let without = "without them `outgate run` can only offer a proxy, which a program may pass by";
    let is = |value: &Option<String>, text: &str| value.as_deref() == Some(text);
    if is(&switches.maximum, "0") {
        let says = format!("switched off: user.max_user_namespaces is 0; {without}");
        return Line::fix(name, says, "sudo sysctl -w user.max_user_namespaces=65536");
    }
    if is(&switches.debian, "0") {
        let says = format!("only for root: kernel.unprivileged_userns_clone is 0; {without}");
        return Line::fix(name, says, "sudo sysctl -w kernel.unprivileged_userns_clone=1");
    }
    if is(&switches.apparmor, "1") {
        let says = format!(
            "taken back by AppArmor: kernel.apparmor_restrict_unprivileged_userns is 1, Ubuntu's default ({refused}); \
             {without}"
        );
        return Line::fix(name, says, "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0");
    }
    let says = format!("refused ({refused}), most likely by the container's seccomp profile; {without}");
    Line::fix(name, says, "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined …")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::Verdict;

    #[test]
    fn whoever_refuses_is_named_with_the_command_that_allows_it() {
        let text = |text: &str| Some(text.to_owned());
        let cases = [
            (Switches { maximum: text("0"), ..Switches::default() }, "user.max_user_namespaces=65536"),
            (Switches { debian: text("0"), ..Switches::default() }, "unprivileged_userns_clone=1"),
            (
                Switches { apparmor: text("1"), maximum: text("9"), ..Switches::default() },
                "kernel.apparmor_restrict_unprivileged_userns=0",
            ),
            (Switches::default(), "docker run"),
        ];
        for (switches, command) in cases {
            let line = judge(Some("unshare: Operation not permitted"), &switches);
            assert_eq!(line.verdict, Verdict::Fix);
            assert!(line.command.as_deref().is_some_and(|text| text.contains(command)), "{line:?}");
        }
    }

    #[test]
    fn a_switch_that_does_not_hurt_is_not_spoken_of() {
        let switches = Switches { apparmor: Some("1".into()), ..Switches::default() };
        assert_eq!(judge(None, &switches).verdict, Verdict::Fine);
    }
}
