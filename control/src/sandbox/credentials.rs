//! Credentials that lie where programs look for them, and that a program inside can read unless they are hidden.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::limits::SSH_ENTRIES_MAX;

/// Files below a home folder that hold credentials as a rule.
const FILES: [&str; 27] = [
    ".aws/credentials",
    ".azure/accessTokens.json",
    ".azure/msal_token_cache.json",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".claude/.credentials.json",
    ".codex/auth.json",
    ".composer/auth.json",
    ".config/composer/auth.json",
    ".config/containers/auth.json",
    ".config/gcloud/access_tokens.db",
    ".config/gcloud/application_default_credentials.json",
    ".config/gcloud/credentials.db",
    ".config/gh/hosts.yml",
    ".config/git/credentials",
    ".config/glab-cli/config.yml",
    ".config/hub",
    ".config/rclone/rclone.conf",
    ".docker/config.json",
    ".git-credentials",
    ".kube/config",
    ".m2/settings.xml",
    ".netrc",
    ".npmrc",
    ".pgpass",
    ".pypirc",
    ".terraform.d/credentials.tfrc.json",
];

/// Names the files below `home` that hold credentials, but for those that are `hidden`. Empty ones hold none.
pub fn others(home: &Path, hidden: &[PathBuf]) -> Vec<PathBuf> {
    let mut found: Vec<_> = FILES.iter().map(|file| home.join(file)).collect();
    let keys = fs::read_dir(home.join(".ssh")).into_iter().flatten().flatten().take(SSH_ENTRIES_MAX);
    let mut keys: Vec<_> = keys.map(|entry| entry.path()).filter(|path| is_key(path)).collect();
    keys.sort();
    found.extend(keys);
    let same = |one: &Path, other: &Path| {
        let place = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
        place(one).is_some_and(|one| Some(one) == place(other))
    };
    found.retain(|path| {
        let holds = fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() > 0);
        holds && fs::File::open(path).is_ok() && !hidden.iter().any(|hidden| same(path, hidden))
    });
    found
}

/// A private key by the name that ssh-keygen gives it.
fn is_key(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.starts_with(b"id_") && !name.ends_with(b".pub")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_credentials_is_named_and_what_is_empty_public_or_hidden_is_not() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        for folder in [".aws", ".ssh"] {
            fs::create_dir(at(folder)).unwrap();
        }
        for name in
            [".aws/credentials", ".netrc", ".ssh/id_ed25519", ".ssh/id_ed25519.pub", ".ssh/known_hosts"]
        {
            fs::write(at(name), "x").unwrap();
        }
        fs::write(at(".npmrc"), "").unwrap();
        let found = others(home.path(), &[at(".netrc")]);
        assert_eq!(found, [at(".aws/credentials"), at(".ssh/id_ed25519")]);
    }
}
