//! Certificates of sandboxes' authorities, as planes offer them: which of them is stored, and so everyone's.

use std::collections::BTreeMap;
use std::time::SystemTime;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use control_wire::certificate::Certificate;
use tokio::sync::mpsc;

use super::session::Session;
use super::{LinkError, PLANE_KEYS};
use crate::limits::CERTIFICATES_PER_COMMIT;
use crate::store::{Local, Plan};
use crate::tables::{Change, Tables};

/// A sandbox, and the certificate of its authority in DER form.
pub(super) type Offer = (String, Vec<u8>);

impl Session<'_> {
    /// Stores the certificates that are to be stored; the row tells every plane which one it is. Those that come while
    /// one commit is made are the next one's, so a plane that starts does not wait for the disk each time.
    pub(super) async fn keep_certificates(
        &self,
        mut offered: mpsc::Receiver<Offer>,
    ) -> Result<(), LinkError> {
        let mut batch = Vec::new();
        while offered.recv_many(&mut batch, CERTIFICATES_PER_COMMIT).await > 0 {
            let offers = std::mem::take(&mut batch);
            let plane = format!("{PLANE_KEYS}{}", self.name);
            let decide = move |tables: &Tables, local: &Local<'_>| {
                // One that was removed meanwhile may have made them with a master that is no longer the pool's.
                let changes = match local.value(&plane)? {
                    Some(_) => taken(offers, tables, SystemTime::now()),
                    None => Vec::new(),
                };
                Ok(Plan { changes, local: Vec::new(), answer: () })
            };
            self.core.store.carry_out(decide).await?;
        }
        Ok(())
    }
}

/// Changes that give a sandbox without a certificate the first that is offered for it, and one whose certificate is in
/// the last third of its time the first that renews it. What is offered later is not looked at: it would be another
/// certificate of the same authority.
fn taken(offers: Vec<Offer>, tables: &Tables, now: SystemTime) -> Vec<Change> {
    let mut changes = BTreeMap::new();
    for (sandbox, der) in offers {
        let Some(entry) = tables.sandboxes.get(&sandbox) else { continue };
        let takes = match &entry.value.ca_certificate {
            None => !der.is_empty(),
            Some(stored) => renews(&der, stored, now),
        };
        if takes && !changes.contains_key(&sandbox) {
            let mut row = (*entry.value).clone();
            row.ca_certificate = Some(der);
            changes.insert(sandbox, row);
        }
    }
    changes.into_iter().map(|(sandbox, row)| Change::Sandbox(sandbox, Some(row))).collect()
}

/// Whether `offered` may take the place of `stored` at `now`, which is control's own time: clients of the sandbox trust
/// the stored one, so only its own key may speak for another, and not before the last third of its time. A plane
/// counts that third from when the certificate was made, a little later than its validity begins, so clocks may differ
/// by hours.
fn renews(offered: &[u8], stored: &[u8], now: SystemTime) -> bool {
    let (Some(offered), Some(stored)) = (Certificate::parse(offered), Certificate::parse(stored)) else {
        return false;
    };
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, offered.public_key_info);
    stored.is_in_its_last_third(now)
        && offered.outlasts(&stored)
        && (offered.not_before..offered.not_after).contains(&now)
        && key.verify(offered.signed, offered.signature).is_ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};

    use super::*;
    use crate::tables::{Entry, Sandbox};

    const DAY: Duration = Duration::from_secs(86_400);

    /// A day of 2030, the clock of these tests.
    fn day(number: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000) + DAY * number
    }

    /// An authority's certificate from one day to another.
    fn certificate(key: &KeyPair, name: &str, from: u32, to: u32) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.not_before = date_time_ymd(2030, 1, 1) + DAY * from;
        params.not_after = date_time_ymd(2030, 1, 1) + DAY * to;
        params.self_signed(key).unwrap().der().to_vec()
    }

    #[test]
    fn only_the_same_key_renews_in_the_last_third_and_for_longer() {
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let stored = certificate(&key, "s", 0, 30);
        let renewed = certificate(&key, "s", 19, 50);
        assert!(renews(&renewed, &stored, day(20)));
        assert!(renews(&renewed, &stored, day(40)), "one that is over is renewed too");
        assert!(!renews(&renewed, &stored, day(20) - Duration::from_secs(1)), "two thirds are not over");
        assert!(!renews(&renewed, &renewed, day(45)), "the same again");
        assert!(!renews(&certificate(&key, "s", 19, 30), &stored, day(20)), "not for longer");
        assert!(!renews(&certificate(&other, "s", 19, 50), &stored, day(20)), "another key");
        assert!(!renews(&certificate(&key, "r", 19, 50), &stored, day(20)), "another name");
        assert!(!renews(&certificate(&key, "s", 21, 50), &stored, day(20)), "not valid yet");
        assert!(!renews(&renewed, &stored, day(50)), "not valid any more");
        let mut forged = renewed.clone();
        let last = forged.len() - 1;
        forged[last] ^= 1;
        assert!(!renews(&forged, &stored, day(20)), "signed by nobody");
        assert!(!renews(&renewed, &[1], day(20)) && !renews(&[1], &stored, day(20)), "no certificate");
    }

    #[test]
    fn first_that_is_offered_is_taken_and_those_after_it_are_not() {
        let key = KeyPair::generate().unwrap();
        let row = |certificate| Sandbox {
            template: "t".into(),
            overrides: Default::default(),
            labels: Default::default(),
            salt: [7; 32],
            ca_certificate: certificate,
            answers: Vec::new(),
        };
        let mut tables = Tables::default();
        let mut put = |id: &str, certificate| {
            tables.sandboxes.insert(id.into(), Entry { value: row(certificate).into(), revision: 1 });
        };
        put("new", None);
        put("old", Some(certificate(&key, "s", 0, 30)));
        put("young", Some(certificate(&key, "s", 10, 40)));
        let (first, second) = (certificate(&key, "s", 19, 50), certificate(&key, "s", 19, 51));
        let mut offers = vec![("gone".to_owned(), first.clone())];
        for id in ["new", "old", "young"] {
            offers.push((id.into(), first.clone()));
            offers.push((id.into(), second.clone()));
        }
        let changes = taken(offers, &tables, day(20));
        let stored: Vec<_> = changes
            .into_iter()
            .map(|change| match change {
                Change::Sandbox(id, Some(row)) => (id, row.ca_certificate.unwrap()),
                _ => panic!("only sandboxes change"),
            })
            .collect();
        assert_eq!(stored, [("new".to_owned(), first.clone()), ("old".to_owned(), first)]);
    }
}
