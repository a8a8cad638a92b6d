//! How programs inside come to trust the gateway: files that take the place of the system's, and variables.
//!
//! Neither is enough by itself: GnuTLS ignores variables, and Node, Java and others ignore the system's file.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::{nss, pkcs12};

/// Where systems keep the authorities that they trust, in one PEM file: Debian, Alpine and Arch; Fedora; SUSE; the
/// names by which others lead there.
const SYSTEM_BUNDLES: [&str; 8] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/var/lib/ca-certificates/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs/ca-bundle.crt",
    "/etc/pki/tls/cacert.pem",
];
/// Where they keep them for Java.
const SYSTEM_STORES: [&str; 3] = [
    "/etc/ssl/certs/java/cacerts",
    "/etc/pki/ca-trust/extracted/java/cacerts",
    "/var/lib/ca-certificates/java-cacerts",
];
const AUTHORITY: &str = "ca.pem";
const BUNDLE: &str = "bundle.pem";
const STORE: &str = "bundle.p12";

/// Where Chromium keeps what it trusts, below a home folder, in the order in which it looks.
const NSS_FOLDERS: [&str; 4] = [".pki/nssdb", ".local/share/pki/nssdb", NSS_FOLDER, ".local/share/pki"];
/// Where every version of it looks.
const NSS_FOLDER: &str = ".pki";
/// What it is called.
const CHROMIUMS: [&str; 8] = [
    "chromium",
    "chromium-browser",
    "chrome",
    "google-chrome",
    "google-chrome-stable",
    "microsoft-edge",
    "brave-browser",
    "vivaldi",
];
/// Where tools keep one that they have brought, below a home folder.
const CHROMIUM_FOLDERS: [&str; 3] = [".cache/ms-playwright", ".cache/puppeteer", ".cache/selenium"];

/// Variables that replace what a client trusts: they name the system's authorities and ours.
const REPLACING: [&str; 16] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "NIX_SSL_CERT_FILE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "HTTPLIB2_CA_CERTS",
    "BUNDLE_SSL_CA_CERT",
    "COMPOSER_CAFILE",
    "PERL_LWP_SSL_CA_FILE",
    "HEX_CACERTS_PATH",
    "npm_config_cafile",
];
/// Variables that add to it: they name ours alone.
const ADDING: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];
/// Options that every Java program reads (they are added to what is there).
pub(super) const JAVA_OPTIONS: &str = "JAVA_TOOL_OPTIONS";

/// Why no program could be made to trust the gateway.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// Not what control answers.
    #[error("the certificate of the sandbox's authority is not PEM")]
    Authority,
    /// No database for Chromium.
    #[error("cannot make a database that trusts the sandbox's authority")]
    Database(#[from] rusqlite::Error),
}

/// Files: name, or path within a folder, and content.
pub type Files = Vec<(String, Vec<u8>)>;

/// Files and variables by which programs trust the system's authorities and one more.
#[derive(Debug)]
pub struct Trust {
    /// Files of the sandbox's own folder: name and content.
    pub files: Files,
    /// Which of them lies over which file of the system.
    pub covers: Vec<(String, PathBuf)>,
    /// Folders that the sandbox has for itself, in place of others: path, and files by their path within.
    pub folders: Vec<(PathBuf, Files)>,
    /// Variables that name them.
    pub variables: Vec<(OsString, OsString)>,
    /// What [`JAVA_OPTIONS`] must hold.
    pub(super) java_options: String,
}

impl Trust {
    /// Makes them for one authority (PEM). `folder` is where its files will be; below `home`, Chromium finds a database
    /// where there is a folder for one ([`make_room_for_chromium`]).
    ///
    /// # Errors
    /// When that is no certificate. A system without authorities of its own trusts this one alone.
    pub fn new(authority: &str, folder: &Path, home: Option<&Path>) -> Result<Self, TrustError> {
        let system = SYSTEM_BUNDLES.iter().find_map(|path| fs::read_to_string(path).ok());
        let mut trust = Self::with_system(authority, folder, &system.unwrap_or_default())?;
        let found = NSS_FOLDERS.iter().find(|name| home.is_some_and(|home| home.join(name).is_dir()));
        if let (Some(home), Some(name)) = (home, found) {
            trust.folders.push((home.join(name), chromium(authority, name)?));
        }
        Ok(trust)
    }

    fn with_system(authority: &str, folder: &Path, system: &str) -> Result<Self, TrustError> {
        let certificates =
            |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).flatten().collect::<Vec<_>>();
        let ours = certificates(authority);
        if ours.is_empty() {
            return Err(TrustError::Authority);
        }
        // Ours first: a client that searches finds it at once.
        let bundle = format!("{}\n{system}", authority.trim_end());
        let theirs = certificates(system);
        let store = pkcs12::trust_store(ours.iter().chain(&theirs).map(AsRef::as_ref));
        let named = |name: &str| folder.join(name).into_os_string();
        let variables = REPLACING.iter().map(|variable| (OsString::from(variable), named(BUNDLE)));
        let variables = variables.chain(ADDING.iter().map(|variable| (variable.into(), named(AUTHORITY))));
        Ok(Self {
            files: vec![
                (AUTHORITY.into(), authority.into()),
                (BUNDLE.into(), bundle.into()),
                (STORE.into(), store),
            ],
            folders: Vec::new(),
            covers: [covers(BUNDLE, &SYSTEM_BUNDLES), covers(STORE, &SYSTEM_STORES)].concat(),
            variables: variables.collect(),
            java_options: format!(
                "-Djavax.net.ssl.trustStore={} -Djavax.net.ssl.trustStoreType=PKCS12",
                folder.join(STORE).display()
            ),
        })
    }
}

/// Makes the folder in which Chromium keeps what it trusts, where there is a Chromium that has none yet: a mount needs a
/// place. It stays, empty, as Chromium itself would have made it at its first start. Answers whether it was made.
pub fn make_room_for_chromium(home: &Path, path: &OsStr) -> bool {
    let there = || {
        let programs = std::env::split_paths(path)
            .any(|folder| CHROMIUMS.iter().any(|name| folder.join(name).is_file()));
        programs || CHROMIUM_FOLDERS.iter().any(|name| home.join(name).is_dir())
    };
    // Where none can be made, Chromium cannot either.
    !NSS_FOLDERS.iter().any(|name| home.join(name).is_dir())
        && there()
        && fs::DirBuilder::new().mode(0o700).create(home.join(NSS_FOLDER)).is_ok()
}

/// The database, with its path within the folder that it takes the place of.
fn chromium(authority: &str, name: &str) -> Result<Files, TrustError> {
    let der = CertificateDer::from_pem_slice(authority.as_bytes()).map_err(|_| TrustError::Authority)?;
    let files = nss::database(&der)?.ok_or(TrustError::Authority)?;
    let within = if name.ends_with("nssdb") { "" } else { "nssdb/" };
    Ok(files.into_iter().map(|(file, bytes)| (format!("{within}{file}"), bytes)).collect())
}

/// Those that exist, each once, whatever names lead there.
fn covers(name: &str, over: &[&str]) -> Vec<(String, PathBuf)> {
    let found: BTreeSet<_> = over.iter().filter_map(|path| fs::canonicalize(path).ok()).collect();
    found.into_iter().map(|path| (name.to_owned(), path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(name: &str) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap().pem()
    }

    #[test]
    fn replacing_variables_name_all_authorities_and_adding_ones_ours_alone() {
        let (ours, theirs) = (certificate("ours.example"), certificate("theirs.example"));
        let trust = Trust::with_system(&ours, Path::new("/f"), &theirs).unwrap();
        let file = |name: &str| {
            let (_, bytes) = trust.files.iter().find(|(found, _)| found == name).unwrap();
            String::from_utf8_lossy(bytes).into_owned()
        };
        assert_eq!(CertificateDer::pem_slice_iter(file(BUNDLE).as_bytes()).count(), 2);
        assert_eq!(file(AUTHORITY), ours);
        let value = |name: &str| {
            let (_, value) = trust.variables.iter().find(|(found, _)| found == name).unwrap();
            value.clone()
        };
        assert_eq!(value("SSL_CERT_FILE"), "/f/bundle.pem");
        assert_eq!(value("NODE_EXTRA_CA_CERTS"), "/f/ca.pem");
        assert!(trust.java_options.contains("trustStore=/f/bundle.p12 "));
    }

    #[test]
    fn chromium_finds_a_database_where_it_has_had_one_and_nowhere_else() {
        let (ours, home) = (certificate("ours.example"), tempfile::tempdir().unwrap());
        let trust = || Trust::new(&ours, Path::new("/f"), Some(home.path())).unwrap().folders;
        assert!(trust().is_empty());
        for (name, file) in [(".pki", "nssdb/cert9.db"), (".pki/nssdb", "cert9.db")] {
            fs::create_dir(home.path().join(name)).unwrap();
            let folders = trust();
            assert_eq!((&folders[0].0, folders[0].1[0].0.as_str()), (&home.path().join(name), file));
        }
    }

    #[test]
    fn a_chromium_that_never_ran_gets_its_folder_and_a_home_without_one_is_left_alone() {
        let (home, programs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let room = || make_room_for_chromium(home.path(), programs.path().as_os_str());
        assert!(!room() && fs::read_dir(home.path()).unwrap().next().is_none());
        fs::write(programs.path().join("chromium-browser"), "").unwrap();
        assert!(room() && home.path().join(".pki").is_dir());
        assert!(!room(), "it is there");
        fs::remove_dir(home.path().join(".pki")).unwrap();
        fs::remove_file(programs.path().join("chromium-browser")).unwrap();
        fs::create_dir_all(home.path().join(".cache/ms-playwright")).unwrap();
        assert!(room());
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        assert!(Trust::with_system("-----BEGIN", Path::new("/f"), "").is_err());
    }
}
