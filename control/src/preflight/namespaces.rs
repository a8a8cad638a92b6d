//! Namespaces of an ordinary user: what `outgate run` and `outgate demo` put a program into.

use super::page::Line;
use crate::causes::chain;
use crate::sandbox::{Sandbox, SandboxError};

/// Makes a sandbox, without a program.
pub fn look() -> Line {
    judge(Sandbox::make().map(|sandbox| sandbox.took().as_millis()))
}

fn judge(made: Result<u128, SandboxError>) -> Line {
    let name = "user namespaces";
    let without = "without them `outgate run` can only offer a proxy, which a program may pass by";
    match made {
        Ok(millis) => Line::fine(name, format!("a sandbox that catches every port was made in {millis} ms")),
        Err(SandboxError::Refused(refusal)) => {
            Line::fix(name, format!("{}; {without}", refusal.cause()), refusal.command())
        }
        Err(error) => Line::fix(name, format!("{}; {without}", chain(&error)), "sudo dmesg | tail"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::Verdict;
    use crate::sandbox::Refusal;

    #[test]
    fn whoever_refuses_is_named_with_the_command_that_allows_it() {
        let line = judge(Err(Refusal::AppArmor.into()));
        assert_eq!(line.verdict, Verdict::Fix);
        assert!(line.says.contains("AppArmor") && line.says.contains("proxy"), "{line:?}");
        assert!(line.command.is_some_and(|command| command.contains("restrict_unprivileged_userns=0")));
        assert_eq!(judge(Ok(7)).verdict, Verdict::Fine);
    }
}
