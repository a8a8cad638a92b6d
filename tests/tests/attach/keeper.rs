//! What is attached outlives a plane, with whoever keeps it.

use super::*;

#[test]
fn plane_begins_with_what_its_keeper_holds_and_tells_it_what_changes() {
    both_ways(|shards| {
        let mut place = Place::new(shards);
        place.server = None;
        let (ours, theirs) = pair().unwrap();
        let held = KeptPlaces {
            sandbox: "box".into(),
            listeners: vec![ListenerSpec { kind: ListenerKind::Transparent }],
            sources: Vec::new(),
            password_hash: Some(sha256(b"a-password-that-was-kept")),
        };
        tell(&ours, &Kept::Attach(held.clone()), &[place.captured()]);
        // One that cannot be served any more is left out.
        tell(&ours, &Kept::Attach(KeptPlaces { sandbox: "broken".into(), ..held.clone() }), &[]);
        tell(&ours, &Kept::Whole, &[]);
        let keeper = Some(Keeper::new(theirs).unwrap());
        place.server = Some(start(&place.socket, Arc::clone(&place.gateway.shards), keeper).unwrap());
        assert_eq!(heard(&ours).0, Kept::Serves);
        assert_eq!(place.attached(), ["box"]);
        let mut stream = place.tls(ELSEWHERE, "origin.test");
        assert!(ask(&mut stream, &place.get("origin.test"), b"").0.starts_with("HTTP/1.1 200 "));
        drop(place.gateway.tunnel_as("box:a-password-that-was-kept", "origin.test", place.port()));

        let attach = Attach {
            sandbox: "box".into(),
            listeners: vec![ListenerSpec { kind: ListenerKind::Transparent }],
            sources: vec!["10.1.2.3/32".parse().unwrap()],
            proxy_password: Some(Password::new("a-password-of-the-orchestrator".into())),
            proxy: false,
        };
        call(&mut place.client(), &Request::Attach(attach), &[place.captured()]).unwrap();
        place.detach("box").unwrap();
        let (kept, descriptors) = heard(&ours);
        let Kept::Attach(kept) = kept else { panic!("{kept:?}") };
        assert_eq!((kept.sandbox.as_str(), kept.sources.len(), descriptors.len()), ("box", 1, 1));
        assert_eq!(kept.password_hash, Some(sha256(b"a-password-of-the-orchestrator")));
        assert_eq!(heard(&ours).0, Kept::Detach(Detach { sandbox: "box".into() }));
    });
}

#[test]
fn keeper_that_ends_early_or_is_none_keeps_the_plane_from_starting() {
    let mut place = Place::new(1);
    place.server = None;
    let (ours, theirs) = pair().unwrap();
    drop(ours);
    let keeper = Some(Keeper::new(theirs).unwrap());
    let refused = start(&place.socket, Arc::clone(&place.gateway.shards), keeper);
    assert!(matches!(refused, Err(AttachError::Keeper(_))));
    assert!(Keeper::new(std::fs::File::open("/dev/null").unwrap().into()).is_err());
}

fn tell(plane: &OwnedFd, kept: &Kept, descriptors: &[BorrowedFd<'_>]) {
    send(plane, &serde_json::to_vec(kept).unwrap(), descriptors).unwrap();
}

fn heard(plane: &OwnedFd) -> (Kept, Vec<OwnedFd>) {
    let mut packet = vec![0; 1 << 16];
    let (count, descriptors) = receive(plane, &mut packet).unwrap();
    (serde_json::from_slice(&packet[..count]).unwrap(), descriptors)
}
