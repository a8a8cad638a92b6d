//! Transfers over links that are long and fat: on whichever leg such a link lies, the windows of the gateway fill it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::Builder;
use http::Response;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tests::{
    client,
    gateway::Gateway,
    http2::{Client, next, origin_with, respond, run},
    origin::Origin,
    relay::Relay,
};

/// Bytes of one transfer.
const BYTES: usize = 64 << 20;
/// What the gateway offers of a stream before anything was measured.
const FIRST: usize = ((16 << 20) + 65_535) / 2;
/// The windows of client and origin: larger than those of browsers and of most libraries.
const WIDE: u32 = 16 << 20;

/// The byte at this place of every transfer.
fn byte(place: usize) -> u8 {
    (place % 251) as u8
}

/// The part of a transfer that begins there.
fn part(place: usize, length: usize) -> Bytes {
    (place..place + length).map(byte).collect()
}

/// Counts what came, and sees that it is what was sent.
async fn take(body: &mut h2::RecvStream) -> usize {
    let pattern: Vec<u8> = part(0, 251 * 300).into();
    let mut count = 0;
    while let Some(data) = next(body).await {
        let data = data.expect("whole");
        let mut rest = &data[..];
        while !rest.is_empty() {
            let from = count % 251;
            let length = rest.len().min(pattern.len() - from);
            assert!(rest[..length] == pattern[from..from + length], "another byte after {count}");
            count += length;
            rest = &rest[length..];
        }
    }
    count
}

/// Sends a whole transfer.
async fn give(stream: &mut h2::SendStream<Bytes>) -> Option<()> {
    let pattern = part(0, 251 * 300);
    let mut sent = 0;
    while sent < BYTES {
        stream.reserve_capacity((BYTES - sent).min(64 << 10));
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?;
        let from = sent % 251;
        let count = room.min(BYTES - sent).min(pattern.len() - from);
        sent += count;
        stream.send_data(pattern.slice(from..from + count), sent == BYTES).ok()?;
    }
    Some(())
}

/// Gives a transfer to who asks for one, and counts what is sent to it.
fn origin() -> Origin {
    let mut settings = h2::server::Builder::new();
    settings.initial_window_size(WIDE).initial_connection_window_size(WIDE);
    origin_with(settings, &["origin.test"], |request, mut answer| async move {
        if request.method() == "PUT" {
            let count = take(&mut request.into_body()).await;
            return respond(&mut answer, count.to_string(), None);
        }
        if request.uri().path() == "/nothing" {
            return respond(&mut answer, "", None);
        }
        give(&mut answer.send_response(Response::new(()), false).ok()?).await
    })
}

fn wide() -> Builder {
    let mut settings = Builder::new();
    settings.initial_window_size(WIDE).initial_connection_window_size(WIDE);
    settings
}

async fn download(client: &mut Client) {
    let (answer, _) = client.send(client.request("GET", "/"), true).await;
    let mut body = answer.await.expect("an answer").into_body();
    assert_eq!(take(&mut body).await, BYTES);
}

async fn upload(client: &mut Client) {
    let (answer, mut body) = client.send(client.request("PUT", "/"), false).await;
    give(&mut body).await.expect("all is taken");
    let mut answer = answer.await.expect("an answer").into_body();
    assert_eq!(next(&mut answer).await.expect("a count").expect("whole"), BYTES.to_string());
}

/// A client of the gateway over a link.
async fn far_client(gateway: &Gateway, link: &Relay, port: u16) -> Client {
    let tunnel = client::tunnel(link.address, "box:word", "origin.test", port);
    Client::on(tunnel, wide(), gateway.authority("box"), ("origin.test", port)).await
}

/// Long enough that even a slow machine moves more than the first window in one round trip.
const VERY_LONG: Duration = Duration::from_millis(100);

#[test]
fn a_far_origin_has_more_under_way_than_a_stream_begins_with() {
    let origin = origin();
    let link = Relay::to(origin.address, VERY_LONG);
    let gateway = Gateway::start(1, &origin);
    run(async {
        let mut client = Client::with(wide(), &gateway, "origin.test", link.address.port()).await;
        download(&mut client).await;
        assert!(link.most_back() > FIRST, "{} bytes were under way", link.most_back());
    });
    gateway.records(1);
}

#[test]
fn a_far_client_has_more_under_way_than_a_stream_begins_with() {
    let origin = origin();
    let gateway = Gateway::start(1, &origin);
    let link = Relay::to(gateway.proxy, VERY_LONG);
    run(async {
        let mut client = far_client(&gateway, &link, origin.address.port()).await;
        upload(&mut client).await;
        assert!(link.most_there() > FIRST, "{} bytes were under way", link.most_there());
    });
    gateway.records(1);
}

#[test]
fn the_other_directions_of_long_links_lose_nothing() {
    let origin = origin();
    let gateway = Gateway::start(1, &origin);
    let (near, far) = (Relay::to(gateway.proxy, VERY_LONG), Relay::to(origin.address, VERY_LONG));
    run(async {
        let mut client = far_client(&gateway, &near, origin.address.port()).await;
        download(&mut client).await;
        let mut client = Client::with(wide(), &gateway, "origin.test", far.address.port()).await;
        upload(&mut client).await;
    });
    gateway.records(2);
}

/// The time of a transfer on connections that are there already.
async fn timed(client: &mut Client, up: bool) -> f64 {
    client.get("/nothing").await;
    let begun = Instant::now();
    match up {
        true => upload(client).await,
        false => download(client).await,
    }
    begun.elapsed().as_secs_f64()
}

#[test]
#[ignore = "a measurement; DESIGN.md of the data plane says how it is taken"]
fn how_much_longer_a_transfer_takes_by_way_of_the_gateway() {
    let delay = Duration::from_millis(25);
    for (where_, up) in [("origin", false), ("origin", true), ("client", false), ("client", true)] {
        let mut best = [f64::MAX; 2];
        for _ in 0..3 {
            let origin = origin();
            let gateway = Gateway::start(1, &origin);
            let far = Relay::to(origin.address, delay);
            let root = CertificateDer::from_pem_slice(origin.root_pem.as_bytes()).expect("a certificate");
            run(async {
                let socket = std::net::TcpStream::connect(far.address).expect("a link");
                let mut direct = Client::on(socket, wide(), &root, ("origin.test", far.address.port())).await;
                best[0] = best[0].min(timed(&mut direct, up).await);
                let near = Relay::to(gateway.proxy, delay);
                let mut client = match where_ {
                    "origin" => Client::with(wide(), &gateway, "origin.test", far.address.port()).await,
                    _ => far_client(&gateway, &near, origin.address.port()).await,
                };
                best[1] = best[1].min(timed(&mut client, up).await);
            });
            gateway.stop();
        }
        let direction = if up { "up" } else { "down" };
        println!("{where_} far, {direction}: {:.3} s, {:.3} s, ×{:.2}", best[0], best[1], best[1] / best[0]);
    }
}
