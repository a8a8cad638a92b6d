//! How programs inside look up names: by asking us, and no service of the machine's.

use std::path::PathBuf;

/// Where resolvers read whom to ask.
const RESOLVER: &str = "/etc/resolv.conf";
/// Where the C library reads which services it asks.
const SERVICES: &str = "/etc/nsswitch.conf";

/// The file of resolver settings, and where it goes. Any address would do, since all are the sandbox's own. No name is
/// tried below a search domain first: what is asked for is what is meant. Without the line, resolvers take the domain
/// of the machine's own name.
pub(super) fn resolver() -> (&'static str, String, PathBuf) {
    let text = "# Names are answered by the gateway.\nnameserver 127.0.0.1\nsearch .\noptions timeout:2 attempts:3\n";
    ("resolv.conf", text.to_owned(), RESOLVER.into())
}

/// The file of services, and where it goes; `None` where the machine's will do.
pub(super) fn services() -> Option<(&'static str, String, PathBuf)> {
    let text = std::fs::read_to_string(SERVICES).ok()?;
    let changed = rewritten(&text);
    (changed != text).then(|| ("nsswitch.conf", changed, SERVICES.into()))
}

/// Hosts are looked up in files and by asking; other services (`resolve`, `mdns`, `wins`) would ask someone else, and
/// what follows them in brackets may keep the question from us.
fn rewritten(text: &str) -> String {
    let mut lines = Vec::new();
    for line in text.lines() {
        let Some(services) = line.trim_start().strip_prefix("hosts:") else {
            lines.push(line.to_owned());
            continue;
        };
        let services = services.split('#').next().unwrap_or_default();
        let mut kept: Vec<_> = services
            .split_whitespace()
            .filter(|name| ["files", "dns", "myhostname"].contains(name))
            .collect();
        let whole = kept.len() == services.split_whitespace().count();
        if whole && kept.contains(&"dns") {
            lines.push(line.to_owned());
            continue;
        }
        if !kept.contains(&"dns") {
            kept.push("dns");
        }
        lines.push(format!("hosts: {}", kept.join(" ")));
    }
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_that_ask_someone_else_are_left_out() {
        for (before, after) in [
            ("hosts:          files dns\n", "hosts:          files dns\n"),
            ("hosts: files myhostname dns\n", "hosts: files myhostname dns\n"),
            (
                "passwd: files systemd\nhosts: files mymachines resolve [!UNAVAIL=return] myhostname dns\n",
                "passwd: files systemd\nhosts: files myhostname dns\n",
            ),
            ("hosts: files mdns4_minimal [NOTFOUND=return] dns # x\n", "hosts: files dns\n"),
            ("hosts: files resolve\n", "hosts: files dns\n"),
        ] {
            assert_eq!(rewritten(before), after);
        }
    }
}
