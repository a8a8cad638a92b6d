//! Names that are known without asking: the hosts file.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::rc::Rc;

use crate::http::Host;
use crate::limits::{ADDRESSES_MAX, HOSTS_FILE_BYTES_MAX};

/// The names of a hosts file, in their normal form.
#[derive(Debug, Default)]
pub struct Hosts(HashMap<Box<str>, Rc<[IpAddr]>>);

impl Hosts {
    /// Reads a hosts file. One that is missing knows no name.
    ///
    /// # Errors
    /// What the system says of the file; `InvalidData` where it is larger than `HOSTS_FILE_BYTES_MAX`.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        use std::io::Read;
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(fault) => return Err(fault),
        };
        let mut bytes = Vec::new();
        file.take(HOSTS_FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > HOSTS_FILE_BYTES_MAX {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "the hosts file is too large"));
        }
        Ok(Self::parse(&String::from_utf8_lossy(&bytes)))
    }

    /// Reads the text of a hosts file: an address, then names, `#` up to the end of a line is a remark. Lines that
    /// make no sense are passed over, as libc does (`hosts(5)`).
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut names: HashMap<Box<str>, Vec<IpAddr>> = HashMap::new();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else { continue };
            for word in words {
                let Ok(host) = Host::parse(word) else { continue };
                let Some(name) = host.name() else { continue };
                let addresses = names.entry(name.into()).or_default();
                if addresses.len() < ADDRESSES_MAX && !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        Self(names.into_iter().map(|(name, addresses)| (name, addresses.into())).collect())
    }

    /// The addresses of a name, in the order written.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Rc<[IpAddr]>> {
        self.0.get(name).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_aliases_lead_to_their_addresses_in_order() {
        let hosts = Hosts::parse(
            "127.0.0.1 localhost\n::1 localhost ip6-localhost # remark\n\n#10.0.0.1 no.example\n\
             10.0.0.2\tApi.Example. alias # x\nnonsense here\n10.0.0.3 alias",
        );
        let find = |name: &str| {
            hosts.find(name).map(|found| found.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(find("localhost"), Some(vec!["127.0.0.1".into(), "::1".into()]));
        assert_eq!(find("api.example"), Some(vec!["10.0.0.2".into()]));
        assert_eq!(find("alias"), Some(vec!["10.0.0.2".into(), "10.0.0.3".into()]));
        assert_eq!(find("no.example"), None);
        assert_eq!(find("here"), None);
    }

    #[test]
    fn a_missing_file_knows_no_name() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Hosts::read(&folder.path().join("none")).unwrap().find("localhost").is_none());
    }
}
