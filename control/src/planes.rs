//! What control knows of each plane: what it has acknowledged, when it was last renewed, and so what is enforced.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use control_wire::policy::OnControlLoss;
use serde::Serialize;
use tokio::sync::watch;

use crate::limits::{ACK_TIME_MAX, FENCE_SLACK, REJECTIONS_MAX};
use crate::tables::{LeaseFacts, Tables};

/// When a plane that no longer hears control surely refuses all of the sandboxes that a change concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The longest of their leases.
    lease: Duration,
    /// A plane that has acknowledged this revision knows that lease.
    since: u64,
}

impl Fence {
    /// Of sandboxes by what planes did with them before the change: a plane that is behind acts by that, one that is
    /// not enforces the change. `None` when there is nothing to refuse, or some plane may go on without control: a
    /// sandbox keeps its traffic, or has no facts because it is new.
    pub fn of(sandboxes: impl IntoIterator<Item = Option<LeaseFacts>>) -> Option<Self> {
        let mut fence: Option<Self> = None;
        for facts in sandboxes {
            let facts = facts.filter(|facts| facts.on_control_loss == OnControlLoss::Deny)?;
            let lease = Duration::from_millis(facts.lease_ms);
            let longest = fence.get_or_insert(Self { lease, since: facts.since });
            longest.lease = longest.lease.max(lease);
            longest.since = longest.since.max(facts.since);
        }
        fence
    }
}

/// One plane, as the API shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlaneView {
    /// Its name.
    pub name: String,
    /// A link is open.
    pub connected: bool,
    /// The last revision that all of its shards enforce.
    pub acknowledged: u64,
    /// What it runs on.
    pub triple: String,
    /// Versions in force that it did not take, so that an earlier one or none runs there.
    pub rejected: Vec<Rejection>,
}

/// A handler that a plane did not take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rejection {
    /// Its name.
    pub handler: String,
    /// Its version.
    pub version: u64,
    /// Why.
    pub reason: String,
}

#[derive(Debug)]
struct Plane {
    /// Number of the open link; links count up, so a superseded one can tell that it is.
    link: Option<u64>,
    acknowledged: u64,
    /// The latest moment at which the plane may have been renewed.
    renewed: Instant,
    /// Revisions sent and not acknowledged, oldest first.
    sent: VecDeque<(u64, Instant)>,
    /// A caller was told that this revision is enforced because the plane is fenced: without it, no renewal.
    fenced_for: u64,
    triple: String,
    rejected: VecDeque<Rejection>,
}

/// All planes that have joined.
pub struct Planes {
    planes: Mutex<BTreeMap<String, Plane>>,
    links: std::sync::atomic::AtomicU64,
    changed: watch::Sender<()>,
}

impl Default for Planes {
    fn default() -> Self {
        Self { planes: Mutex::default(), links: Default::default(), changed: watch::channel(()).0 }
    }
}

impl Planes {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Plane>> {
        self.planes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A plane that has joined, now or in an earlier life of this process. It may have been renewed until now, and
    /// callers may have been told that `fenced_for` is enforced because it is fenced.
    pub fn add(&self, name: &str, fenced_for: u64) {
        let plane = Plane {
            link: None,
            acknowledged: 0,
            renewed: Instant::now(),
            sent: VecDeque::new(),
            fenced_for,
            triple: String::new(),
            rejected: VecDeque::new(),
        };
        self.lock().entry(name.to_owned()).or_insert(plane);
        self.changed.send_replace(());
    }

    /// Forgets a plane: nobody waits for it any more.
    pub fn remove(&self, name: &str) -> bool {
        let known = self.lock().remove(name).is_some();
        self.changed.send_replace(());
        known
    }

    /// Whether a plane of this name is known.
    pub fn knows(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }

    /// A link of this plane has opened; an older one is superseded. `None` for a plane that was removed.
    pub fn opened(&self, name: &str, triple: String) -> Option<u64> {
        let link = self.links.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        let mut planes = self.lock();
        let plane = planes.get_mut(name)?;
        plane.link = Some(link);
        plane.triple = triple;
        plane.sent.clear();
        drop(planes);
        self.changed.send_replace(());
        Some(link)
    }

    /// Whether this is still the plane's link.
    pub fn is_current(&self, name: &str, link: u64) -> bool {
        self.lock().get(name).is_some_and(|plane| plane.link == Some(link))
    }

    /// Whether any plane but the one of this name is linked.
    pub fn has_link_beside(&self, name: Option<&str>) -> bool {
        self.lock().iter().any(|(other, plane)| plane.link.is_some() && Some(&**other) != name)
    }

    /// Tells when any plane has changed.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// A link has closed.
    pub fn closed(&self, name: &str, link: u64) {
        if let Some(plane) = self.lock().get_mut(name).filter(|plane| plane.link == Some(link)) {
            plane.link = None;
        }
        self.changed.send_replace(());
    }

    /// A revision is about to be sent. Of the empty store's there is nothing to enforce.
    pub fn sending(&self, name: &str, revision: u64) {
        if let Some(plane) = self.lock().get_mut(name).filter(|_| revision > 0) {
            plane.sent.push_back((revision, Instant::now()));
            // Only the oldest decides whether the plane is late; the newest says what it was sent.
            if plane.sent.len() > 2 {
                plane.sent.remove(1);
            }
        }
    }

    /// A plane has acknowledged a revision. False when it was never sent, which only a faulty plane says.
    pub fn acknowledged(&self, name: &str, revision: u64) -> bool {
        let mut planes = self.lock();
        let Some(plane) = planes.get_mut(name) else { return false };
        let newest_sent = plane.sent.back().map_or(plane.acknowledged, |(sent, _)| *sent);
        if revision > newest_sent {
            return false;
        }
        plane.acknowledged = plane.acknowledged.max(revision);
        while plane.sent.front().is_some_and(|(sent, _)| *sent <= revision) {
            plane.sent.pop_front();
        }
        drop(planes);
        self.changed.send_replace(());
        true
    }

    /// A plane that came back says what it holds, of this store.
    pub fn resumed(&self, name: &str, revision: u64) {
        if let Some(plane) = self.lock().get_mut(name) {
            // What a link delivered need not be enforced yet: the plane acknowledges it again. One that holds less
            // than was acknowledged is another process with the same identity.
            plane.acknowledged = plane.acknowledged.min(revision);
            plane.sent.push_back((revision, Instant::now()));
        }
    }

    /// Renews a plane's lease, or not: a plane that is late, or of which a caller was told that it is fenced, must
    /// first enforce what it was sent.
    pub fn renew(&self, name: &str, link: u64) -> bool {
        let mut planes = self.lock();
        let Some(plane) = planes.get_mut(name).filter(|plane| plane.link == Some(link)) else { return false };
        let late = plane.sent.front().is_some_and(|(_, at)| at.elapsed() > ACK_TIME_MAX);
        if late || plane.acknowledged < plane.fenced_for {
            return false;
        }
        plane.renewed = Instant::now();
        true
    }

    /// Notes that a plane did not take a handler. False when that is known already.
    pub fn rejected(&self, name: &str, rejection: &Rejection) -> bool {
        let mut planes = self.lock();
        let Some(plane) = planes.get_mut(name).filter(|plane| !plane.rejected.contains(rejection)) else {
            return false;
        };
        // Of a handler only the newest version counts.
        plane.rejected.retain(|known| known.handler != rejection.handler);
        plane.rejected.push_back(rejection.clone());
        if plane.rejected.len() > REJECTIONS_MAX {
            plane.rejected.pop_front();
        }
        true
    }

    /// All planes, by name; of what they rejected, the versions that are in force.
    pub fn view(&self, tables: &Tables) -> Vec<PlaneView> {
        let in_force = |rejection: &&Rejection| {
            tables.handlers.get(&rejection.handler).is_some_and(|row| row.value.version == rejection.version)
        };
        let planes = self.lock();
        let view = |(name, plane): (&String, &Plane)| PlaneView {
            name: name.clone(),
            connected: plane.link.is_some(),
            acknowledged: plane.acknowledged,
            triple: plane.triple.clone(),
            rejected: plane.rejected.iter().filter(in_force).cloned().collect(),
        };
        planes.iter().map(view).collect()
    }

    /// Planes that did not take this version of a handler, each with its reason.
    pub fn rejections(&self, handler: &str, version: u64) -> Vec<(String, String)> {
        let of_it = |known: &&Rejection| known.handler == handler && known.version == version;
        let planes = self.lock();
        let reason = |(name, plane): (&String, &Plane)| {
            plane.rejected.iter().find(of_it).map(|known| (name.clone(), known.reason.clone()))
        };
        planes.iter().filter_map(reason).collect()
    }

    /// Waits until a revision is enforced on every plane, or refused there behind its fence; answers the planes that
    /// are behind when time is up.
    pub async fn wait(&self, revision: u64, fence: Option<Fence>, within: Duration) -> Vec<String> {
        let mut changes = self.changes();
        let end = tokio::time::Instant::now() + within;
        loop {
            changes.mark_unchanged();
            let (behind, next_fence) = self.behind(revision, fence);
            if behind.is_empty() || tokio::time::Instant::now() >= end {
                return behind;
            }
            let wake = next_fence.map_or(end, |fence| tokio::time::Instant::from_std(fence).min(end));
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return behind },
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Planes that may still act by an older revision, and when the first of them will be fenced.
    fn behind(&self, revision: u64, fence: Option<Fence>) -> (Vec<String>, Option<Instant>) {
        let (mut behind, mut next) = (Vec::new(), None);
        for (name, plane) in self.lock().iter_mut().filter(|(_, plane)| plane.acknowledged < revision) {
            if let Some(fence) = fence.filter(|fence| plane.acknowledged >= fence.since) {
                let at = plane.renewed + fence.lease + FENCE_SLACK;
                if Instant::now() >= at {
                    plane.fenced_for = plane.fenced_for.max(revision);
                    continue;
                }
                next = Some(next.map_or(at, |next: Instant| next.min(at)));
            }
            behind.push(name.clone());
        }
        (behind, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(on_control_loss: OnControlLoss, lease_ms: u64, since: u64) -> Option<LeaseFacts> {
        Some(LeaseFacts { on_control_loss, lease_ms, since })
    }

    #[test]
    fn a_fence_is_as_long_as_the_longest_lease_and_none_where_one_sandbox_keeps_its_traffic() {
        let deny = OnControlLoss::Deny;
        let two = [facts(deny, 500, 7), facts(deny, 2_000, 3)];
        assert_eq!(Fence::of(two), Some(Fence { lease: Duration::from_secs(2), since: 7 }));
        assert_eq!(Fence::of([two[0], facts(OnControlLoss::Keep, 500, 1)]), None);
        assert_eq!(Fence::of([two[0], None]), None, "a new sandbox");
        assert_eq!(Fence::of([]), None, "nothing to refuse");
    }

    fn linked() -> (Planes, u64) {
        let planes = Planes::default();
        planes.add("a", 0);
        let link = planes.opened("a", "t".into()).unwrap();
        (planes, link)
    }

    #[test]
    fn a_plane_that_does_not_acknowledge_in_time_is_not_renewed() {
        let (planes, link) = linked();
        planes.sending("a", 1);
        assert!(planes.renew("a", link), "it has time");
        let long_ago = Instant::now() - ACK_TIME_MAX - Duration::from_millis(1);
        planes.lock().get_mut("a").unwrap().sent[0].1 = long_ago;
        // Later revisions do not make it less late.
        for revision in 2..9 {
            planes.sending("a", revision);
        }
        assert!(!planes.renew("a", link));
        assert!(planes.acknowledged("a", 1));
        assert!(planes.renew("a", link), "the rest was sent just now");
        assert!(!planes.acknowledged("a", 9), "it was never sent");
        assert!(planes.acknowledged("a", 8));
    }

    #[test]
    fn a_plane_is_beside_another_while_it_is_linked() {
        let (planes, link) = linked();
        let name = planes.lock().keys().next().unwrap().clone();
        assert!(planes.has_link_beside(None) && planes.has_link_beside(Some("other")));
        assert!(!planes.has_link_beside(Some(&name)));
        planes.closed(&name, link);
        assert!(!planes.has_link_beside(None));
    }

    #[test]
    fn only_the_latest_link_renews() {
        let (planes, first) = linked();
        let second = planes.opened("a", "t".into()).unwrap();
        assert!(!planes.renew("a", first) && planes.renew("a", second));
        planes.closed("a", first);
        assert!(planes.is_current("a", second), "a link that was superseded closes only itself");
        planes.remove("a");
        assert!(!planes.renew("a", second) && planes.opened("a", "t".into()).is_none());
    }

    #[test]
    fn a_plane_that_holds_less_than_was_acknowledged_is_believed() {
        let (planes, _) = linked();
        planes.sending("a", 9);
        assert!(planes.acknowledged("a", 9));
        planes.opened("a", "t".into());
        planes.resumed("a", 4);
        assert_eq!(planes.behind(5, None).0, ["a"]);
    }
}
