//! The planes of a pool share one master, and control never has it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use control::tables::{Change, Sandbox, Tables};
use control_wire::message::{ToControl, ToPlane};
use control_wire::pool::{Grant, MasterId, SealRequest, SealedMaster};
use dataplane::link::LinkError;
use dataplane::tls::{Authority, PoolMaster, Receiver, SandboxSalt};
use tempfile::TempDir;

use crate::control::Control;
use crate::peer::{FalseControl, Identity, Peer, join, secret};
use crate::plane::Plane;

const NOTHING: ([u8; 16], u64) = ([0; 16], 0);

/// Whether both make the same authority of a salt: a certificate made with one fits the key made with the other.
fn same(one: &PoolMaster, other: &PoolMaster) -> bool {
    let derive = |master| Authority::derive(master, &SandboxSalt([3; 32])).unwrap();
    let made = derive(one).issue_certificate("s", SystemTime::now(), 30).unwrap();
    derive(other).with_certificate(made).is_ok()
}

/// The master as it lies in a plane's folder.
fn stored(plane: &Plane) -> PoolMaster {
    let (sealed, key) = (plane.identity().join("master.sealed"), plane.identity().join("master.key"));
    PoolMaster::open(&sealed, &key).unwrap().unwrap()
}

/// The master's own bytes, past all doors, to search for them.
fn bytes_of(plane: &Plane) -> Vec<u8> {
    let (sealed, key) = (plane.identity().join("master.sealed"), plane.identity().join("master.key"));
    let (sealed, key) = (fs::read(sealed).unwrap(), fs::read(key).unwrap());
    let (magic, rest) = sealed.split_at(16);
    let (nonce, body) = rest.split_at(12);
    let mut body = body.to_vec();
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap());
    let nonce = Nonce::try_assume_unique_for_key(nonce).unwrap();
    key.open_in_place(nonce, Aad::from(magic), &mut body).unwrap().to_vec()
}

#[test]
fn two_planes_of_one_pool_derive_the_same_authority() {
    let control = Control::start();
    let (first, second) = (Plane::joined(&control, "a"), Plane::joined(&control, "b"));
    assert!(same(first.master(), second.master()));
    // What lies on disk is what a restart takes, and each plane has sealed it with a key of its own.
    assert!(same(&stored(&second), first.master()));
    let key = |plane: &Plane| fs::read(plane.identity().join("master.key")).unwrap();
    assert_ne!(key(&first), key(&second));
    // A third is served by whichever is left.
    drop(first);
    let third = Plane::new(&control, "c", Some(control.token()));
    assert!(same(third.master(), second.master()));
}

#[test]
fn a_plane_opens_its_master_while_control_is_away() {
    let control = Control::start();
    let plane = Plane::joined(&control, "a");
    let before = plane.master().clone();
    let folder = plane.end();
    let (_state, address) = control.kill();
    let plane = Plane::begin(Plane::settings(address, "a", folder.path(), None), folder);
    assert!(same(plane.master(), &before));
}

/// Every byte that control keeps, by file.
fn kept_by(control: &Control) -> Vec<(PathBuf, Vec<u8>)> {
    fn walk(folder: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match fs::metadata(&path).unwrap() {
                kind if kind.is_dir() => walk(&path, found),
                kind if kind.is_file() => found.push((path.clone(), fs::read(&path).unwrap())),
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    walk(control.state.path(), &mut found);
    found
}

/// Whether bytes hold a value, as it is, in hex, in base64, or as the list of numbers that JSON makes of bytes.
fn holds(bytes: &[u8], value: &[u8]) -> bool {
    let list: Vec<_> = value.iter().map(u8::to_string).collect();
    [
        value.to_vec(),
        data_encoding::HEXLOWER.encode(value).into_bytes(),
        data_encoding::BASE64_NOPAD.encode(value).into_bytes(),
        data_encoding::BASE64URL_NOPAD.encode(value).into_bytes(),
        list.join(",").into_bytes(),
    ]
    .iter()
    .any(|form| bytes.windows(form.len()).any(|window| window == form))
}

#[test]
fn control_carries_the_master_and_never_has_it() {
    let control = Control::start();
    let first = Plane::joined(&control, "a");
    let master = bytes_of(&first);
    // A planted copy is found first, so a search that finds nothing means something.
    let planted = control.state.path().join("planted");
    fs::write(&planted, data_encoding::HEXLOWER.encode(&master)).unwrap();
    assert!(kept_by(&control).iter().any(|(_, bytes)| holds(bytes, &master)));
    fs::remove_file(planted).unwrap();

    let _second = Plane::joined(&control, "b");
    let mut peer = Peer::connect(&control, None);
    peer.say(&join(secret(&control.token()), "c", csr()));
    let answer = peer.hear();
    let ToPlane::Joined { master: Grant::Pool { .. }, .. } = &answer else { panic!("{answer:?}") };
    assert!(!holds(&answer.encode(), &master));
    let kept = kept_by(&control);
    assert!(kept.iter().any(|(path, _)| path.ends_with("store.sqlite")));
    for (path, bytes) in kept {
        assert!(!holds(&bytes, &master), "{}", path.display());
    }
}

#[test]
fn what_a_plane_says_of_its_master_is_for_the_recipient_alone() {
    let control = Control::start();
    let plane = Plane::joined(&control, "a");
    let (id, bytes) = (plane.master().id().unwrap(), bytes_of(&plane));
    let control = FalseControl::instead_of(control);
    let (mut caller, _hello) = control.caller();
    caller.welcome([1; 16], 1_000);
    let receiver = Receiver::generate("b").unwrap();
    // Of a master that is not the plane's there is no answer.
    for (number, master) in [(1, MasterId([0; 32])), (2, id)] {
        let recipient = receiver.recipient().clone();
        caller.say(&ToPlane::SealMaster(SealRequest { number, master, recipient }));
    }
    let (answer, sealed) = loop {
        let said = caller.hear();
        assert!(!holds(&said.encode(), &bytes), "{said:?}");
        if let ToControl::MasterSealed { request, sealed } = said {
            break (request, sealed);
        }
    };
    assert_eq!(answer, 2);
    assert!(Receiver::generate("b").unwrap().open(&id, &sealed).is_err());
    assert!(same(&receiver.open(&id, &sealed).unwrap(), plane.master()));
}

fn csr() -> Vec<u8> {
    let key = rcgen::KeyPair::generate().unwrap();
    rcgen::CertificateParams::default().serialize_request(&key).unwrap().der().to_vec()
}

#[test]
fn of_planes_that_join_at_once_one_makes_the_master() {
    let control = Control::start();
    let tokens: Vec<_> = (0..6).map(|_| control.token()).collect();
    let names = ["a", "b", "c", "d", "e", "f"];
    let planes: Vec<_> =
        names.iter().zip(tokens).map(|(name, token)| Plane::new(&control, name, Some(token))).collect();
    for plane in &planes {
        assert!(same(plane.master(), planes[0].master()), "there is more than one master");
        assert!(same(&stored(plane), planes[0].master()), "what a plane keeps is not what it uses");
    }
}

#[test]
fn without_a_plane_to_seal_the_master_a_join_is_refused_and_the_token_stays_good() {
    let control = Control::start();
    let first = Plane::joined(&control, "a");
    let before = first.master().clone();
    let folder = first.end();
    crate::until("the first plane is gone", || {
        !control.core.planes.view(&control.core.store.tables())[0].connected
    });
    let second = Plane::new(&control, "b", Some(control.token()));
    let error = second.loss();
    assert!(matches!(error, LinkError::Refused { .. }), "{error:?}");
    let said = error.to_string();
    assert!(said.contains("start one of a") && said.contains("outgate plane rm"), "{said}");
    assert!(!second.identity().join("plane.key").exists());
    assert!(!control.core.planes.knows("b"));
    // It goes on by itself, with the same token, when the other is back.
    let _first = Plane::begin(Plane::settings(control.address, "a", folder.path(), None), folder.clone());
    assert!(same(second.master(), &before));
}

#[test]
fn a_holder_that_seals_rubbish_or_nothing_gives_no_master() {
    let control = Control::start();
    let identity = Identity::join(&control, "a");
    let mut holder = Peer::plane(&control, &identity, "a", NOTHING);
    let second = Plane::new(&control, "b", Some(control.token()));
    let request = loop {
        if let ToPlane::SealMaster(request) = holder.hear() {
            break request;
        }
    };
    assert_eq!((request.master, request.recipient.plane.as_str()), (crate::peer::MASTER, "b"));
    let sealed = SealedMaster { encapsulated: [9; 32], ciphertext: [1; 48] };
    // An answer that nobody asked for changes nothing.
    holder.say(&ToControl::MasterSealed { request: request.number + 7, sealed: sealed.clone() });
    holder.say(&ToControl::MasterSealed { request: request.number, sealed });
    let error = second.loss();
    assert!(matches!(error, LinkError::Handover(_)), "{error:?}");
    assert!(error.to_string().contains("outgate plane token"), "{error}");
    for name in ["plane.key", "master.sealed"] {
        assert!(!second.identity().join(name).exists(), "{name} is there");
    }
}

#[test]
fn a_plane_without_its_master_says_how_to_join_again_and_makes_no_other() {
    let control = Control::start();
    let folder = Plane::joined(&control, "a").end();
    let sealed = folder.path().join("identity/master.sealed");
    fs::remove_file(&sealed).unwrap();
    let begin = |folder: &Arc<TempDir>, token| {
        Plane::begin(Plane::settings(control.address, "a", folder.path(), token), folder.clone())
    };
    // Whatever token it has: an operator must say that the former master is to be given up.
    for token in [None, Some(control.token())] {
        let error = begin(&folder, token).loss();
        assert!(matches!(error, LinkError::MasterGone { .. }), "{error:?}");
        let said = error.to_string();
        assert!(said.contains("outgate plane rm a") && said.contains("plane.key"), "{said}");
        assert!(!sealed.exists());
    }
    // The remedy, as it says.
    control.must("DELETE", "/v1/planes/a", serde_json::Value::Null);
    fs::remove_file(folder.path().join("identity/plane.key")).unwrap();
    begin(&folder, Some(control.token())).until_connected();
    assert!(sealed.exists());
}

/// The sandbox's stored certificate.
fn certificate(control: &Control) -> Option<Vec<u8>> {
    control.core.store.tables().sandboxes["s"].value.ca_certificate.clone()
}

fn with_certificate(control: &Control) {
    control.put_templates(["t".into()]);
    let row = Sandbox {
        template: "t".into(),
        overrides: Default::default(),
        labels: Default::default(),
        salt: [7; 32],
        ca_certificate: Some(vec![1]),
        answers: Vec::new(),
    };
    let decide =
        move |_: &Tables| Ok::<_, std::convert::Infallible>(vec![Change::Sandbox("s".into(), Some(row))]);
    control.runtime.block_on(control.core.store.change(decide)).unwrap();
}

#[test]
fn certificates_of_a_master_that_is_gone_are_forgotten() {
    let control = Control::start();
    let first = Plane::joined(&control, "a");
    with_certificate(&control);
    control.must("DELETE", "/v1/planes/a", serde_json::Value::Null);
    assert_eq!(certificate(&control), Some(vec![1]), "the same plane may come back");
    let before = first.master().clone();
    let other = Plane::new(&control, "b", Some(control.token()));
    assert!(!same(other.master(), &before));
    assert_eq!(certificate(&control), None);
}

#[test]
fn the_last_plane_comes_back_with_its_master_and_the_certificates_hold() {
    let control = Control::start();
    let first = Plane::joined(&control, "a");
    with_certificate(&control);
    let before = first.master().clone();
    let folder = first.end();
    control.must("DELETE", "/v1/planes/a", serde_json::Value::Null);
    fs::remove_file(folder.path().join("identity/plane.key")).unwrap();
    let settings = Plane::settings(control.address, "again", folder.path(), Some(control.token()));
    let plane = Plane::begin(settings, folder);
    assert!(same(plane.master(), &before));
    assert_eq!(certificate(&control), Some(vec![1]));
}

#[test]
fn the_master_of_one_pool_is_not_brought_to_another() {
    let (first, second) = (Control::start(), Control::start());
    let plane = Plane::joined(&first, "a");
    let before = plane.master().clone();
    let folder = plane.end();
    let settings = Plane::settings(second.address, "a", folder.path(), Some(second.token()));
    let plane = Plane::begin(settings, folder);
    assert!(!same(plane.master(), &before));
    assert!(same(&stored(&plane), plane.master()));
}
