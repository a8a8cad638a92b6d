//! Keeps what is attached to the plane on this machine, sockets included, so that the plane after it can begin there.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, OwnedFd},
};

use control_wire::attach::{Kept, KeptPlaces, Share, receive, send};
use control_wire::limits::ATTACH_BYTES_MAX;
use rustix::net::{Shutdown, shutdown};
use tokio::sync::watch;

use crate::limits::KEPT_SANDBOXES_MAX;
use crate::tell::tell;

/// What was attached when the last plane ended.
#[derive(Debug, Default)]
pub struct Keeper {
    held: BTreeMap<String, (KeptPlaces, Vec<OwnedFd>)>,
    /// Listeners of many sandboxes, by name. The plane bounds their number.
    shared: BTreeMap<String, (Share, Vec<OwnedFd>)>,
    serves: watch::Sender<bool>,
}

impl Keeper {
    /// Tells a new plane what is held, then hears from it what changes until it ends. Blocks all that time.
    pub fn attend(&mut self, plane: &OwnedFd) {
        // One that died before it had heard all may have said something nonetheless.
        let told = self.tell_all(plane);
        match told.and(self.hear(plane)) {
            // The plane has ended; whoever started it knows why.
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => {
                tell(format_args!("what is attached to the plane is not kept any more: {error}"));
                // It hears that nobody listens, and goes on: gone is a keeper only with the whole socket.
                let _ended = shutdown(plane, Shutdown::Read);
            }
        }
    }

    /// A plane has said that it serves, at any time.
    pub fn has_served(&self) -> bool {
        *self.serves.borrow()
    }

    /// Tells when a plane has said that it serves.
    pub fn serving(&self) -> watch::Receiver<bool> {
        self.serves.subscribe()
    }

    /// Number of sandboxes that are held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Nothing is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    fn tell_all(&self, plane: &OwnedFd) -> io::Result<()> {
        let held = self.held.values().map(|(places, held)| (Kept::Attach(places.clone()), held));
        let shared = self.shared.values().map(|(share, held)| (Kept::Share(share.clone()), held));
        for (kept, descriptors) in held.chain(shared) {
            let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            send(plane, &serde_json::to_vec(&kept)?, &descriptors)?;
        }
        send(plane, &serde_json::to_vec(&Kept::Whole)?, &[]).map(drop)
    }

    fn hear(&mut self, plane: &OwnedFd) -> io::Result<()> {
        let mut packet = vec![0; ATTACH_BYTES_MAX];
        loop {
            let (count, descriptors) = match receive(plane, &mut packet) {
                // Told once, by a plane that died with something unread; what it had said comes after.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => continue,
                received => received?,
            };
            if count == 0 {
                return Ok(());
            }
            match serde_json::from_slice(&packet[..count])? {
                Kept::Attach(places) => self.hold(places, descriptors),
                Kept::Detach(detach) => drop(self.held.remove(&detach.sandbox)),
                Kept::Share(share) => drop(self.shared.insert(share.name.clone(), (share, descriptors))),
                Kept::Unshare(unshare) => drop(self.shared.remove(&unshare.name)),
                Kept::Serves => drop(self.serves.send_replace(true)),
                Kept::Whole => return Err(io::Error::from(io::ErrorKind::InvalidData)),
            }
        }
    }

    /// Holds a sandbox's places, in place of those before.
    fn hold(&mut self, places: KeptPlaces, descriptors: Vec<OwnedFd>) {
        let sandbox = places.sandbox.clone();
        if self.held.len() >= KEPT_SANDBOXES_MAX && !self.held.contains_key(&sandbox) {
            tell(format_args!(
                "{KEPT_SANDBOXES_MAX} sandboxes are kept already: {sandbox} must be attached anew after a restart"
            ));
            return;
        }
        self.held.insert(sandbox, (places, descriptors));
    }
}

/// Lets this process hold as many descriptors as the system allows it: each kept listener is one.
///
/// # Errors
/// What the kernel says.
pub fn raise_descriptors() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use control_wire::attach::{Detach, ListenerKind, ListenerSpec, Unshare, pair};

    use super::*;

    /// A plane's side of the conversation.
    struct Plane(OwnedFd);

    impl Plane {
        fn say(&self, kept: &Kept, descriptors: &[std::os::fd::BorrowedFd<'_>]) {
            send(&self.0, &serde_json::to_vec(kept).unwrap(), descriptors).unwrap();
        }

        fn hear(&self) -> (Kept, Vec<OwnedFd>) {
            let mut packet = vec![0; ATTACH_BYTES_MAX];
            let (count, descriptors) = receive(&self.0, &mut packet).unwrap();
            (serde_json::from_slice(&packet[..count]).unwrap(), descriptors)
        }
    }

    /// One life of a plane: the keeper attends while the script runs.
    fn live(keeper: &mut Keeper, script: impl FnOnce(Plane) + Send) {
        let (ours, theirs) = pair().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || script(Plane(theirs)));
            keeper.attend(&ours);
        });
    }

    fn places(sandbox: &str) -> KeptPlaces {
        KeptPlaces {
            sandbox: sandbox.into(),
            listeners: vec![ListenerSpec { kind: ListenerKind::Transparent }],
            sources: vec!["10.0.0.2/32".parse().unwrap()],
            password_hash: Some([7; 32]),
        }
    }

    #[test]
    fn next_plane_begins_with_the_sockets_of_the_one_that_died() {
        let mut keeper = Keeper::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let bound = listener.local_addr().unwrap();
        live(&mut keeper, |plane| {
            assert_eq!(plane.hear().0, Kept::Whole, "nothing is held at first");
            plane.say(&Kept::Attach(places("box")), &[listener.as_fd()]);
            plane.say(&Kept::Attach(places("gone")), &[listener.as_fd()]);
            plane.say(&Kept::Detach(Detach { sandbox: "gone".into() }), &[]);
        });
        drop(listener);
        assert_eq!(keeper.len(), 1);
        for _ in 0..2 {
            live(&mut keeper, |plane| {
                let (kept, mut descriptors) = plane.hear();
                assert_eq!(kept, Kept::Attach(places("box")));
                let client = TcpStream::connect(bound).unwrap();
                let (_, from) = TcpListener::from(descriptors.remove(0)).accept().unwrap();
                assert_eq!(from, client.local_addr().unwrap());
                assert_eq!(plane.hear().0, Kept::Whole);
            });
        }
    }

    #[test]
    fn later_places_stand_instead_of_earlier_ones() {
        let mut keeper = Keeper::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        live(&mut keeper, |plane| {
            assert_eq!(plane.hear().0, Kept::Whole);
            plane.say(&Kept::Attach(places("box")), &[listener.as_fd()]);
            let none = KeptPlaces { listeners: Vec::new(), ..places("box") };
            plane.say(&Kept::Attach(none), &[]);
        });
        let (held, descriptors) = &keeper.held["box"];
        assert!(held.listeners.is_empty() && descriptors.is_empty());
    }

    #[test]
    fn listeners_of_many_are_kept_by_name() {
        let mut keeper = Keeper::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let share = |name: &str| Share { name: name.into(), listeners: places("").listeners };
        live(&mut keeper, |plane| {
            assert_eq!(plane.hear().0, Kept::Whole);
            plane.say(&Kept::Share(share("host")), &[listener.as_fd()]);
            plane.say(&Kept::Share(share("other")), &[listener.as_fd()]);
            plane.say(&Kept::Unshare(Unshare { name: "other".into() }), &[]);
        });
        live(&mut keeper, |plane| {
            let (kept, descriptors) = plane.hear();
            assert_eq!((kept, descriptors.len()), (Kept::Share(share("host")), 1));
            assert_eq!(plane.hear().0, Kept::Whole);
        });
    }

    #[test]
    fn what_a_plane_said_before_it_died_unhearing_is_kept() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (ours, theirs) = pair().unwrap();
        let plane = Plane(theirs);
        plane.say(&Kept::Attach(places("box")), &[listener.as_fd()]);
        drop(plane);
        let mut keeper = Keeper::default();
        keeper.attend(&ours);
        assert_eq!(keeper.len(), 1);
    }

    #[test]
    fn a_plane_that_talks_nonsense_costs_nothing_that_is_held() {
        let mut keeper = Keeper::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        live(&mut keeper, |plane| {
            assert_eq!(plane.hear().0, Kept::Whole);
            plane.say(&Kept::Attach(places("box")), &[listener.as_fd()]);
            send(&plane.0, b"{", &[]).unwrap();
        });
        assert_eq!(keeper.len(), 1);
    }
}
