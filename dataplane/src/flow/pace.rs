//! A request whose sandbox's handlers have taken their part of the shard's time: it waits for a moment, or is refused.
//!
//! Only requests that are to be shown to a handler come here, whatever the policy says about handlers that fail: who
//! could make a handler be left out by asking too often would be rid of it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_lite::future::or;

use super::{exchange::ReplyTo, requests::detached, resident::Resident};
use crate::{
    http::{FieldName, FieldValue},
    limits::{HANDLER_WAIT, HANDLER_WAITING_MAX},
    policy::HandlerUse,
    respond::{Blame, Refusal},
    ring::{Ring, sleep},
};

/// A wait until a handler may be called.
pub struct Pace {
    debt: Duration,
    used: Arc<HandlerUse>,
}

impl Pace {
    /// The wait before a handler of a sandbox may be called; nothing where it may be now.
    ///
    /// # Errors
    /// What the sandbox is told where that would take too long.
    pub(super) fn of(resident: &Resident, used: &Arc<HandlerUse>) -> Result<Option<Box<Self>>, Refusal> {
        let Some(debt) = resident.handler_time.debt(Ring::current().now()) else { return Ok(None) };
        let pace = Self { debt, used: Arc::clone(used) };
        if debt > HANDLER_WAIT { Err(pace.refused()) } else { Ok(Some(Box::new(pace))) }
    }

    /// When whoever begins to wait now gives up.
    pub(super) fn until() -> Instant {
        Ring::current().now() + HANDLER_WAIT
    }

    /// Waits. Others do too, so the handler may not be callable when this returns.
    ///
    /// # Errors
    /// What the sandbox is told where it cannot be called by then, where too many wait, where the client left and where
    /// the sandbox did.
    pub(super) async fn wait(
        &self,
        resident: &Resident,
        until: Instant,
        reply: &ReplyTo,
    ) -> Result<(), Refusal> {
        let waiting = &resident.waiting;
        if Ring::current().now() + self.debt > until || waiting.len() >= HANDLER_WAITING_MAX {
            return Err(self.refused());
        }
        let tie = waiting.tie();
        let over = async {
            sleep(self.debt).await;
            true
        };
        let left = async {
            reply.cancelled().await;
            false
        };
        match tie.hold(or(over, left)).await {
            Some(true) => Ok(()),
            Some(false) => {
                let detail = "the client left while its request waited for a handler";
                Err(Refusal::new(499, "client_gone", Blame::Sandbox, detail, "wait for the answer"))
            }
            None => Err(detached()),
        }
    }

    fn refused(&self) -> Refusal {
        let seconds = self.debt.as_secs() + 1;
        let detail = format!(
            "handlers have taken the time that requests of this sandbox may cost others, `{}` among them",
            self.used.name
        );
        let remedy = format!(
            "try again in {seconds} s and ask less; where little was asked, the operator has to look at the handler"
        );
        let mut refusal = Refusal::new(429, "handler_budget", Blame::Sandbox, &detail, &remedy);
        let after = (FieldName::new(b"Retry-After"), FieldValue::new(seconds.to_string().as_bytes()));
        if let (Ok(name), Ok(value)) = after {
            refusal.fields = Box::new([(name, value)]);
        }
        refusal.by_rule(&self.used.rule)
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use control_wire::policy::OnError;
    use futures_lite::future::zip;

    use super::*;
    use crate::{
        handler::Call,
        http::{Answer, Driver, Exchange, Leg, Parsed, h1::Slice, h2::Allowance, parse_request},
        identity::SandboxId,
        limits::{HANDLER_BUDGET_DEPTH, HANDLER_BUDGET_PART, HANDLER_HELD_UP_TIMES},
        listen::synthetic::SyntheticMap,
        ring::{testing::on_shard, yield_now},
        tls::Chunk,
    };

    struct Nothing;

    impl Leg for Nothing {
        fn reset(&self) {}

        fn is_left(&self) -> bool {
            false
        }
    }

    fn resident() -> Resident {
        let id = SandboxId::new("box").expect("an id");
        Resident::new(id, SyntheticMap::new(), &Allowance::new(1 << 20))
    }

    /// Has a sandbox owe so much that it is over after this time.
    fn owing(resident: &Resident, time: Duration) {
        let cost = HANDLER_BUDGET_DEPTH + time / HANDLER_BUDGET_PART;
        resident.handler_time.charge(cost / HANDLER_HELD_UP_TIMES, Call::HeldUp, Ring::current().now());
    }

    fn used() -> Arc<HandlerUse> {
        let rule = "outbound".into();
        Arc::new(HandlerUse { name: "h".into(), params: Box::default(), on_error: OnError::Next, rule })
    }

    /// Where the answer goes, and the client's side of it.
    fn reply() -> (ReplyTo, Driver<Slice<Chunk>, Answer<Chunk>>) {
        let Ok(Parsed::Complete { head, .. }) = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") else {
            panic!("a head")
        };
        let (exchange, driver) = Exchange::new(head.to_owned(), Rc::new(Nothing));
        (exchange.reply, driver)
    }

    fn waits(resident: &Resident) -> Box<Pace> {
        Pace::of(resident, &used()).expect("it is not refused").expect("it has to wait")
    }

    #[test]
    fn a_wait_ends_when_the_handler_may_be_called() {
        on_shard(|| async {
            let (resident, (reply, _client)) = (resident(), reply());
            assert!(Pace::of(&resident, &used()).expect("it may").is_none());
            owing(&resident, HANDLER_WAIT / 10);
            let pace = waits(&resident);
            pace.wait(&resident, Pace::until(), &reply).await.expect("it may");
            assert!(Pace::of(&resident, &used()).expect("it may").is_none());
            assert!(resident.waiting.is_empty());
        });
    }

    #[test]
    fn what_takes_too_long_is_refused_and_says_when_to_come_back() {
        on_shard(|| async {
            let (resident, (reply, _client)) = (resident(), reply());
            owing(&resident, HANDLER_WAIT / 2);
            let pace = waits(&resident);
            // It has waited before.
            let until = Ring::current().now() + HANDLER_WAIT / 4;
            let refusal = pace.wait(&resident, until, &reply).await.expect_err("it takes too long");
            assert_eq!((refusal.status, refusal.code), (429, "handler_budget"));
            owing(&resident, Duration::from_secs(40));
            let refusal = Pace::of(&resident, &used()).err().expect("it takes too long");
            let (name, value) = &refusal.fields[0];
            assert_eq!(name.bytes(), b"Retry-After");
            let after: u64 = String::from_utf8_lossy(value.bytes()).parse().expect("a number");
            assert!((40..60).contains(&after), "{after}");
            assert_eq!(refusal.rule.as_deref(), Some("outbound"));
        });
    }

    #[test]
    fn a_wait_ends_when_the_sandbox_leaves_or_the_client_does() {
        on_shard(|| async {
            let resident = resident();
            owing(&resident, HANDLER_WAIT / 2);
            let pace = waits(&resident);
            let (until, (reply, _client)) = (Pace::until(), reply());
            let cut = async {
                yield_now().await;
                assert_eq!(resident.waiting.cut(), 1);
            };
            let (ended, ()) = zip(pace.wait(&resident, until, &reply), cut).await;
            assert_eq!(ended.expect_err("the sandbox left").code, "detached");
        });
        on_shard(|| async {
            let resident = resident();
            owing(&resident, HANDLER_WAIT / 2);
            let pace = waits(&resident);
            let (until, (reply, client)) = (Pace::until(), reply());
            let turns = client.turns();
            let leave = async {
                yield_now().await;
                drop(client);
            };
            let (ended, ()) = turns.take(pace.wait(&resident, until, &reply), leave).await;
            assert_eq!(ended.expect_err("the client left").code, "client_gone");
        });
    }

    #[test]
    fn no_more_wait_than_may() {
        on_shard(|| async {
            let (resident, (reply, _client)) = (resident(), reply());
            owing(&resident, HANDLER_WAIT / 2);
            let pace = waits(&resident);
            let mut others: Vec<_> = (0..HANDLER_WAITING_MAX).map(|_| resident.waiting.tie()).collect();
            let refusal = pace.wait(&resident, Pace::until(), &reply).await.expect_err("there is no room");
            assert_eq!(refusal.code, "handler_budget");
            others.pop();
            pace.wait(&resident, Pace::until(), &reply).await.expect("there is room for one");
        });
    }
}
