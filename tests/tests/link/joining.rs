//! A token lets one plane join once, at the control that made it.

use std::net::UdpSocket;
use std::time::Duration;

use control::pki::Authority;
use dataplane::link::{LinkError, LinkEvent};
use zeroize::Zeroizing;

use crate::control::{Control, anywhere};
use crate::plane::{News, Plane};

#[test]
fn a_token_lets_one_plane_join_once() {
    let control = Control::start();
    let token = control.token();
    let plane = Plane::new(&control, "a", Some(token.clone()));
    match plane.event() {
        LinkEvent::Joined { handler_key } => assert_eq!(handler_key, control.core.handler_key),
        other => panic!("{other:?}"),
    }
    plane.until_connected();
    let second = Plane::new(&control, "b", Some(token));
    let error = second.loss();
    assert!(matches!(error, LinkError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("was used; make a new one: outgate plane token"), "{error}");
    let names: Vec<_> = planes(&control);
    assert_eq!(names, ["a"]);
}

fn planes(control: &Control) -> Vec<String> {
    control.core.planes.view(&control.core.store.tables()).into_iter().map(|plane| plane.name).collect()
}

#[test]
fn a_token_that_has_ended_is_refused() {
    let control = Control::start();
    let token = control.token_for(Duration::ZERO);
    let error = Plane::new(&control, "a", Some(token)).loss();
    assert!(error.to_string().contains("has ended; make a new one: outgate plane token"), "{error}");
    assert!(planes(&control).is_empty());
}

#[test]
fn a_damaged_token_is_refused_before_anything_is_sent() {
    let control = Control::start();
    let token = control.token();
    let nobody = UdpSocket::bind(anywhere()).unwrap();
    nobody.set_nonblocking(true).unwrap();
    let damaged =
        [&token[..token.len() - 2], &token[4..], "ogj_", "", "ogj_not/base64", &format!("{}AAAA", &*token)];
    for text in damaged {
        let folder = tempfile::tempdir().unwrap().into();
        let token = Some(Zeroizing::new(text.to_owned()));
        let settings =
            Plane::settings(nobody.local_addr().unwrap(), "a", std::sync::Arc::as_ref(&folder).path(), token);
        let error = Plane::begin(settings, folder).loss();
        assert!(matches!(error, LinkError::BadToken), "{text}: {error:?}");
        assert!(nobody.recv(&mut [0; 9]).is_err(), "something was sent for {text}");
    }
}

#[test]
fn a_plane_without_token_says_what_it_needs() {
    let control = Control::start();
    let error = Plane::new(&control, "a", None).loss();
    assert!(error.to_string().contains("outgate plane token"), "{error}");
}

/// The token holds the fingerprint of control's authority. Who cannot show a certificate of that one is told nothing.
#[test]
fn a_plane_never_says_its_secret_to_another_control() {
    let (control, other) = (Control::start(), tempfile::tempdir().unwrap());
    let stranger = {
        let _entered = control.runtime.enter();
        Authority::open_or_create(other.path()).unwrap().listen(anywhere()).unwrap()
    };
    let token = control.token();
    let folder = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let address = stranger.local_addr().unwrap();
    let settings = Plane::settings(address, "a", folder.path(), Some(token.clone()));
    let plane = Plane::begin(settings, folder);
    let met = control.runtime.block_on(async { stranger.accept().await.unwrap().await });
    assert!(met.is_err(), "the plane took the stranger's certificate");
    let error = plane.loss();
    assert!(matches!(error, LinkError::Stranger { .. }), "{error:?}");
    assert!(error.to_string().contains("correct control.address"), "{error}");
    // The token was not shown to anybody, so it still works.
    let plane = Plane::new(&control, "a", Some(token));
    assert!(matches!(plane.event(), LinkEvent::Joined { .. }));
}

#[test]
fn the_identity_is_kept_across_restarts_and_needs_no_token() {
    let control = Control::start();
    let plane = Plane::joined(&control, "a");
    let certificate = std::fs::read(plane.identity().join("plane.der")).unwrap();
    let folder = plane.end();
    // What is left of the token that was used changes nothing, whatever it is.
    for token in [None, Some(Zeroizing::new("rubbish".to_owned()))] {
        let settings = Plane::settings(control.address, "a", folder.path(), token);
        let plane = Plane::begin(settings, folder.clone());
        match plane.event() {
            LinkEvent::Joined { handler_key } => assert_eq!(handler_key, control.core.handler_key),
            other => panic!("{other:?}"),
        }
        plane.until_connected();
        assert_eq!(std::fs::read(plane.identity().join("plane.der")).unwrap(), certificate);
    }
    assert_eq!(planes(&control), ["a"]);
}

#[test]
fn a_plane_that_is_removed_is_cut_off_at_once_and_holds_nothing() {
    let control = Control::start();
    control.put_templates(["t".into()]);
    let mut plane = Plane::joined(&control, "a");
    assert!(plane.rows.contains_key("template t"));
    control.must("DELETE", "/v1/planes/a", serde_json::Value::Null);
    // It refuses everything from now on, and is told how to come back.
    assert_eq!(plane.news(), News::Snapshot(2));
    assert!(plane.rows.is_empty());
    let error = plane.loss();
    assert!(matches!(error, LinkError::Removed), "{error:?}");
    assert!(error.to_string().contains("outgate plane token"), "{error}");
    // It tries its token again, which had its one use.
    let error = plane.loss();
    assert!(error.to_string().contains("make a new one: outgate plane token"), "{error}");
    assert!(planes(&control).is_empty());
    let folder = plane.end();
    // Started again without one, it is refused as what it was.
    let plane = Plane::begin(Plane::settings(control.address, "a", folder.path(), None), folder);
    let error = plane.until_lost(|_| true);
    assert!(matches!(error, LinkError::Removed), "{error:?}");

    let folder = plane.end();
    let settings = Plane::settings(control.address, "a", folder.path(), Some(control.token()));
    let mut plane = Plane::begin(settings, folder);
    plane.until_connected();
    assert_eq!(plane.news(), News::Snapshot(1));
    assert_eq!(planes(&control), ["a"]);
}

/// A plane that was replaced by its name would go on by old policy while nobody waits for it.
#[test]
fn a_name_that_is_taken_is_refused_and_the_token_stays_good() {
    let control = Control::start();
    let _first = Plane::joined(&control, "a");
    let token = control.token();
    let error = Plane::new(&control, "a", Some(token.clone())).loss();
    assert!(error.to_string().contains("outgate plane rm a"), "{error}");
    let plane = Plane::new(&control, "b", Some(token));
    plane.until_connected();
    assert_eq!(planes(&control), ["a", "b"]);
}

#[test]
fn a_plane_with_a_token_of_another_control_moves_there() {
    let (first, second) = (Control::start(), Control::start());
    let plane = Plane::joined(&first, "a");
    let folder = plane.end();
    // Without one it says what is wrong.
    let settings = Plane::settings(second.address, "a", folder.path(), None);
    let plane = Plane::begin(settings, folder);
    let error = plane.until_lost(|_| true);
    assert!(matches!(error, LinkError::Stranger { .. }), "{error:?}");
    let folder = plane.end();
    let settings = Plane::settings(second.address, "a", folder.path(), Some(second.token()));
    Plane::begin(settings, folder).until_connected();
    assert_eq!(planes(&second), ["a"]);
}
