//! Edits over scripted connections: what they give is what the other leg gets, framed for whoever reads it.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use futures_lite::future::zip;

use super::tests::{expect, legs, open};
use super::*;
use crate::{
    flow::edits::{AnswerEdit, BodyEdit, Edits, Interest, Passing},
    http::{AnswerParts, FieldName, FieldValue, ServeError},
    respond::{Blame, Refusal},
    ring::testing::on_shard,
    tls::Socket,
};

/// Writes capitals, holds an underscore back until the end, and stops at an exclamation mark.
struct Loud {
    interest: Interest,
    held: usize,
    seen: Rc<RefCell<String>>,
}

impl Loud {
    fn wants(interest: Interest) -> (Self, Rc<RefCell<String>>) {
        let seen = Rc::<RefCell<String>>::default();
        (Self { interest, held: 0, seen: Rc::clone(&seen) }, seen)
    }
}

impl BodyEdit for Loud {
    fn piece(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Passing, Box<Instead>> {
        assert!(!bytes.is_empty(), "a piece is never empty");
        self.seen.borrow_mut().push_str(std::str::from_utf8(bytes).expect("text"));
        if bytes.contains(&b'!') {
            return Err(Refusal::new(451, "too_loud", Blame::Policy, "loud", "whisper").into());
        }
        if self.interest == Interest::Look {
            return Ok(Passing::AsItIs);
        }
        self.held += bytes.iter().filter(|byte| **byte == b'_').count();
        out.extend(bytes.iter().filter(|byte| **byte != b'_').map(u8::to_ascii_uppercase));
        Ok(Passing::Changed)
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Box<Instead>> {
        self.seen.borrow_mut().push('.');
        out.extend(std::iter::repeat_n(b'_', self.held));
        Ok(())
    }
}

impl AnswerEdit for Loud {
    fn head(&mut self, parts: &mut AnswerParts) -> Result<Interest, Box<Instead>> {
        if parts.status() == 500 {
            return Err(Refusal::new(502, "no_answer", Blame::Policy, "no", "ask").into());
        }
        if parts.field("x-inner").is_some() {
            parts.remove(&FieldName::new(b"X-Inner").expect("a name"));
            parts.set(FieldName::new(b"X-Seen").expect("a name"), FieldValue::new(b"yes").expect("a value"));
            parts.set_status(203).expect("a status");
        }
        Ok(self.interest)
    }
}

fn down(interest: Interest) -> (Option<Edits>, Rc<RefCell<String>>) {
    let (loud, seen) = Loud::wants(interest);
    let edits = Edits::default();
    edits.add_down(Box::new(loud));
    (Some(edits), seen)
}

#[test]
fn changed_answer_is_chunked_and_what_was_held_back_comes_before_its_trailers() {
    on_shard(|| async {
        let (mut plane, client, far) = legs();
        let (edits, seen) = down(Interest::Change);
        plane.edits = edits;
        let play = async {
            expect(&far, "\r\n\r\n").await;
            let head =
                "HTTP/1.1 200 OK\r\nX-Inner: 1\r\nContent-MD5: x\r\nTransfer-Encoding: chunked\r\n\r\n";
            far.send(format!("{head}3\r\na_b\r\n").as_bytes()).await.expect("sent");
            let told = expect(&client, "AB\r\n").await;
            assert!(told.starts_with("HTTP/1.1 203 \r\n"), "{told}");
            assert!(
                told.contains("X-Seen: yes") && !told.contains("X-Inner") && !told.contains("MD5"),
                "{told}"
            );
            // The first piece has passed before the second was there.
            far.send(b"2\r\n__\r\n0\r\nX-Sum: 7\r\n\r\n").await.expect("sent");
            assert!(expect(&client, "X-Sum").await.starts_with("3\r\n___\r\n0\r\nX-Sum: 7"));
        };
        let (taken, ()) = zip(plane.take("GET", "", &open()), play).await;
        assert!(taken.goes_on());
        assert_eq!(*seen.borrow(), "a_b__.");
    });
}

/// Looks, and owes time for so many looks at the debt.
struct Dear {
    loud: Loud,
    owed: Cell<u32>,
}

impl BodyEdit for Dear {
    fn piece(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Passing, Box<Instead>> {
        self.loud.piece(bytes, out)
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Box<Instead>> {
        self.loud.end(out)
    }

    fn debt(&self) -> Option<Duration> {
        let left = self.owed.get().checked_sub(1)?;
        self.owed.set(left);
        self.loud.seen.borrow_mut().push('~');
        Some(Duration::from_millis(1))
    }
}

impl AnswerEdit for Dear {
    fn head(&mut self, parts: &mut AnswerParts) -> Result<Interest, Box<Instead>> {
        self.loud.head(parts)
    }
}

#[test]
fn no_piece_is_read_while_an_edit_owes_time() {
    on_shard(|| async {
        let (mut plane, client, far) = legs();
        let (loud, seen) = Loud::wants(Interest::Look);
        let edits = Edits::default();
        edits.add_down(Box::new(Dear { loud, owed: Cell::new(3) }));
        plane.edits = Some(edits);
        let play = async {
            expect(&far, "\r\n\r\n").await;
            far.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await.expect("sent");
            expect(&client, "\r\n\r\nhi").await;
        };
        let (taken, ()) = zip(plane.take("GET", "", &open()), play).await;
        assert!(taken.goes_on());
        assert_eq!(*seen.borrow(), "~~~hi.");
    });
}

#[test]
fn changed_answer_of_known_length_has_none_and_one_that_is_looked_at_keeps_it() {
    for (interest, body, length) in [(Interest::Change, "HI", false), (Interest::Look, "hi", true)] {
        on_shard(move || async move {
            let (mut plane, client, far) = legs();
            let (edits, seen) = down(interest);
            plane.edits = edits;
            let play = async {
                expect(&far, "\r\n\r\n").await;
                far.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await.expect("sent");
                let told = expect(&client, body).await;
                assert_eq!(told.contains("Content-Length: 2\r\n"), length, "{told}");
                assert_eq!(told.contains("Transfer-Encoding: chunked\r\n"), !length, "{told}");
            };
            let (taken, ()) = zip(plane.take("GET", "", &open()), play).await;
            assert!(taken.goes_on());
            assert_eq!(*seen.borrow(), "hi.");
        });
    }
}

#[test]
fn answers_without_a_body_stay_without_one() {
    for (method, answer) in [("HEAD", "200 OK\r\nContent-Length: 9"), ("GET", "204 No"), ("GET", "304 No")] {
        on_shard(move || async move {
            let (mut plane, client, far) = legs();
            plane.edits = down(Interest::Change).0;
            let play = async {
                expect(&far, "\r\n\r\n").await;
                far.send(format!("HTTP/1.1 {answer}\r\n\r\n").as_bytes()).await.expect("sent");
                let told = expect(&client, "\r\n\r\n").await;
                assert!(told.ends_with("\r\n\r\n") && !told.contains("hunked"), "{told}");
                assert!(!told.contains("Content-Length"), "the length of a body that would change: {told}");
            };
            let (taken, ()) = zip(plane.take(method, "", &open()), play).await;
            assert!(taken.goes_on());
        });
    }
}

#[test]
fn edits_see_what_the_ones_before_gave() {
    on_shard(|| async {
        let (mut plane, client, far) = legs();
        let ((first, _), (second, seen)) = (Loud::wants(Interest::Change), Loud::wants(Interest::Look));
        let edits = Edits::default();
        edits.add_down(Box::new(first));
        edits.add_down(Box::new(second));
        plane.edits = Some(edits);
        let play = async {
            expect(&far, "\r\n\r\n").await;
            far.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na_b_").await.expect("sent");
            expect(&client, "0\r\n\r\n").await;
        };
        let (taken, ()) = zip(plane.take("GET", "", &open()), play).await;
        assert!(taken.goes_on());
        assert_eq!(*seen.borrow(), "AB__.", "the rest of the first comes before the end of the second");
    });
}

#[test]
fn answer_that_is_ended_before_its_head_was_told_is_another_and_later_it_is_cut() {
    for (answer, started) in [
        ("HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nhi", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh", true),
    ] {
        on_shard(move || async move {
            let (mut plane, client, far) = legs();
            plane.edits = down(Interest::Look).0;
            let play = async {
                expect(&far, "\r\n\r\n").await;
                far.send(answer.as_bytes()).await.expect("sent");
                if started {
                    expect(&client, "\r\n\r\nh").await;
                    far.send(b"!").await.expect("sent");
                }
            };
            let (taken, ()) = zip(plane.take("GET", "", &open()), play).await;
            drop(plane);
            while let Ok(Some(bytes)) = client.receive().await {
                assert!(!bytes.contains(&b'!'), "what ended it is not told");
            }
            assert_eq!(taken.started, started);
            assert!(matches!(taken.outcome, Err(ExchangeError::Instead(_))), "{:?}", taken.outcome);
            assert!(
                matches!(taken.served.outcome, Err(ServeError::Cut(BodyError::Cancelled))),
                "a part never looks whole"
            );
        });
    }
}

#[test]
fn changed_request_goes_up_as_the_edit_gives_it() {
    on_shard(|| async {
        let (mut plane, client, far) = legs();
        let (loud, seen) = Loud::wants(Interest::Change);
        let edits = Edits::default();
        edits.add_up(Box::new(loud));
        plane.edits = Some(edits);
        client.send(b"1\r\n_\r\n").await.expect("sent");
        let play = async {
            expect(&far, "chunked\r\n\r\n").await;
            // What an edit holds back is no chunk, which would be the end.
            client.send(b"2\r\nab\r\n").await.expect("sent");
            assert!(expect(&far, "AB\r\n").await.starts_with("2\r\nAB"));
            client.send(b"0\r\nX-Sum: 7\r\n\r\n").await.expect("sent");
            assert_eq!(expect(&far, "7\r\n\r\n").await, "1\r\n_\r\n0\r\nX-Sum: 7\r\n\r\n");
            far.send(b"HTTP/1.1 204 Done\r\n\r\n").await.expect("sent");
        };
        let (taken, ()) = zip(plane.take("POST", "Transfer-Encoding: chunked\r\n", &open()), play).await;
        assert!(taken.goes_on());
        assert_eq!(*seen.borrow(), "_ab.");
        assert!(plane.edits.is_some_and(|edits| edits.has_begun()), "it must not be sent again");
    });
}

#[test]
fn request_that_an_edit_ends_never_looks_whole_to_the_upstream() {
    on_shard(|| async {
        let (mut plane, client, far) = legs();
        let edits = Edits::default();
        edits.add_up(Box::new(Loud::wants(Interest::Look).0));
        plane.edits = Some(edits);
        client.send(b"2\r\nab\r\n").await.expect("sent");
        let play = async {
            expect(&far, "ab\r\n").await;
            client.send(b"2\r\nc!\r\n0\r\n\r\n").await.expect("sent");
        };
        let (taken, ()) = zip(plane.take("POST", "Transfer-Encoding: chunked\r\n", &open()), play).await;
        assert!(!taken.started, "the client can still be refused");
        let Err(ExchangeError::Instead(instead)) = taken.outcome else { panic!("{:?}", taken.outcome) };
        assert!(matches!(*instead, Instead::Refuse(refusal) if refusal.code == "too_loud"));
        drop(plane);
        while let Ok(Some(bytes)) = far.receive().await {
            assert!(!bytes.contains(&b'!'), "the piece that ended it went up");
        }
    });
}
