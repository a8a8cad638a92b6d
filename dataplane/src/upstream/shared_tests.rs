//! A shared connection whose upstream hangs, over a connection that exists in memory only.

use std::{pin::pin, rc::Rc, time::Duration};

use ::http::Request;
use futures_lite::future::poll_once;

use super::*;
use crate::{
    ring::testing::on_shard,
    tls::{Script, Socket},
};

/// Between two looks, in place of [`H2_LOOK_TIME`].
const PAUSE: Duration = Duration::from_millis(10);

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;

/// A frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// The upstream's end, behind the client's preface (RFC 9113 §3.4).
struct Far {
    script: Script,
    come: Vec<u8>,
}

impl Far {
    /// Waits for a frame of this kind, past all others; gives its flags and payload.
    async fn wait_for(&mut self, wanted: u8) -> (u8, Vec<u8>) {
        loop {
            while self.come.len() >= 9 {
                let length = u32::from_be_bytes([0, self.come[0], self.come[1], self.come[2]]) as usize;
                if self.come.len() < 9 + length {
                    break;
                }
                let frame: Vec<u8> = self.come.drain(..9 + length).collect();
                if frame[3] == wanted {
                    return (frame[4], frame[9..].to_vec());
                }
            }
            self.come.extend(self.script.receive().await.expect("no reset").expect("no end"));
        }
    }
}

#[test]
fn a_request_on_a_connection_that_hangs_does_not_wait_for_tcp_and_the_next_one_is_not_given_it() {
    on_shard(|| async {
        let (near, script) = Script::pair();
        let address = ([127, 0, 0, 1], 443).into();
        let wire = Rc::new(Wire::Scripted(near));
        let begun = Shared::looked_at(wire, address, &Allowance::new(1 << 20), PAUSE).await;
        let (shared, driving) = begun.expect("a wire that takes the preface");
        let driving = glommio::spawn_local(driving).detach();
        let ask = || Request::get("https://a/").body(()).expect("a request");

        let preface = script.receive().await.expect("no reset").expect("no end");
        let mut far = Far { script, come: preface[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len()..].to_vec() };
        let mut place = shared.place().unwrap_or_else(|_| panic!("a new connection has room"));
        let (answer, _leg) = place.open(ask(), true).expect("a stream");
        far.wait_for(HEADERS).await;
        // `:status 200` of the static table (RFC 7541, appendix A), with the end of the stream.
        let told = [frame(SETTINGS, 0, 0, &[]), frame(HEADERS, 5, 1, &[0x88])].concat();
        far.script.send(&told).await.expect("there is room");
        assert_eq!(answer.await.expect("an answer").status().as_u16(), 200);
        drop(place);

        // From here on it says nothing. As if the bound were over: the clock is only read.
        shared.idle_since.set(Ring::current().now() - H2_UNSURE_TIME);
        let mut place = shared.place().unwrap_or_else(|_| panic!("nothing is known against it"));
        let (answer, _leg) = place.open(ask(), true).expect("a stream");
        let (flags, _) = far.wait_for(PING).await;
        assert_eq!(flags, 0, "it is asked, not answered");
        let mut answer = pin!(answer);
        assert!(poll_once(answer.as_mut()).await.is_none(), "it has its time to answer");
        answer.await.expect_err("the connection is given up");
        drop(place);
        driving.await.expect("it was not cancelled");
        assert!(matches!(shared.place(), Err(Full::ForEver)));
        assert!(far.script.was_reset(), "not closed as if all were well");
    });
}
