//! HTTP/2 to the upstream: connections that requests of one sandbox share, whichever version they came in.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
    mpsc,
};

use bytes::Bytes;
use h2::Reason;
use http::{Request, Response};
use tests::{
    gateway::{Gateway, PATIENCE, SECRET, ask, policy},
    http2::{Client, next, origin, origin_with, read, respond, run, whole},
    origin::Origin,
};

/// Says what it was asked: method, path, and the fields that matter here.
fn told(request: &Request<h2::RecvStream>) -> String {
    let field = |name: &str| request.headers().get(name).map_or("-", |value| value.to_str().unwrap_or("?"));
    let (method, uri) = (request.method(), request.uri());
    format!(
        "{method} {uri} te={} authorization={} host={}",
        field("te"),
        field("authorization"),
        field("host")
    )
}

#[test]
fn requests_of_both_versions_share_one_connection_and_carry_their_credential() {
    let origin = origin(&["origin.test"], |request, mut answer| async move {
        let told = told(&request);
        let (body, _) = read(&mut request.into_body()).await?;
        respond(&mut answer, [told.as_bytes(), b" ", &body].concat(), None)
    });
    let gateway = Gateway::start(1, &origin);
    let port = origin.address.port();
    let expected = |method: &str, path: &str, body: &str| {
        format!(
            "{method} https://origin.test:{port}{path} te=trailers authorization=Bearer {SECRET} host=- {body}"
        )
    };
    run(async {
        let mut client = Client::connect(&gateway, "origin.test", port).await;
        assert_eq!(client.get("/one?two").await.text(), expected("GET", "/one?two", ""));
        let (answer, mut body) = client.send(client.request("POST", "/up"), false).await;
        body.send_data(Bytes::from_static(b"some"), true).unwrap();
        assert_eq!(whole(answer).await.unwrap().text(), expected("POST", "/up", "some"));
    });
    let mut stream = gateway.tls("origin.test", port);
    let request = format!("PUT /old HTTP/1.1\r\nHost: origin.test:{port}\r\nContent-Length: 4\r\n\r\nbody");
    let (head, body) = ask(&mut stream, &request, b"");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(String::from_utf8_lossy(&body).contains(&expected("PUT", "/old", "body")));
    assert_eq!(origin.connections(), 1);
    drop(stream);
    gateway.records(3);
}

#[test]
fn a_burst_to_a_new_upstream_opens_one_connection() {
    let origin = origin(&["origin.test"], |request, mut answer| async move {
        respond(&mut answer, request.uri().path().to_owned(), None)
    });
    let gateway = Gateway::start(1, &origin);
    run(async {
        let mut client = Client::connect(&gateway, "origin.test", origin.address.port()).await;
        let mut answers = Vec::new();
        for index in 0..90 {
            answers.push(client.send(client.request("GET", &format!("/{index}")), true).await.0);
        }
        for (index, answer) in answers.into_iter().enumerate() {
            assert_eq!(whole(answer).await.unwrap().text(), format!("/{index}"));
        }
    });
    assert_eq!(origin.connections(), 1);
    gateway.records(90);
}

/// Whoever found no place on the connection that it had waited for dialled for itself: of 1,000 requests at once 745
/// had a connection each. Now one dials at a time, and the others wait for as long as that finds places.
#[test]
fn a_burst_beyond_one_connection_opens_as_many_as_carry_it() {
    const STREAMS: usize = 100;
    let begun = Arc::new(AtomicUsize::new(0));
    let (go, gone) = tokio::sync::watch::channel(false);
    let counted = Arc::clone(&begun);
    let origin = origin(&["origin.test"], move |_, mut answer| {
        counted.fetch_add(1, Ordering::SeqCst);
        let mut gone = gone.clone();
        async move {
            gone.wait_for(|gone| *gone).await.ok()?;
            respond(&mut answer, "here", None)
        }
    });
    let gateway = Gateway::start(1, &origin);
    run(async {
        let (mut clients, mut answers) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            clients.push(Client::connect(&gateway, "origin.test", origin.address.port()).await);
        }
        for _ in 0..STREAMS {
            for client in &mut clients {
                answers.push(client.send(client.request("GET", "/"), true).await.0);
            }
        }
        while begun.load(Ordering::SeqCst) < answers.len() {
            tokio::task::yield_now().await;
        }
        go.send(true).unwrap();
        for answer in answers {
            assert_eq!(whole(answer).await.unwrap().text(), "here");
        }
    });
    // At least 100 on each.
    assert!(origin.connections() <= 5, "{} connections", origin.connections());
    gateway.records(5 * STREAMS);
}

#[test]
fn what_an_upstream_did_not_begin_is_sent_again_and_what_it_began_is_not() {
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    let origin = origin(&["origin.test"], move |request, mut answer| {
        let tried = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            match (request.uri().path(), tried) {
                ("/refused", 0) => answer.send_reset(Reason::REFUSED_STREAM),
                ("/broken", _) => answer.send_reset(Reason::INTERNAL_ERROR),
                _ => respond(&mut answer, "whole", None)?,
            }
            Some(())
        }
    });
    let gateway = Gateway::start(1, &origin);
    run(async {
        let mut client = Client::connect(&gateway, "origin.test", origin.address.port()).await;
        let (answer, _) = client.send(client.request("POST", "/refused"), true).await;
        assert_eq!(whole(answer).await.unwrap().text(), "whole");
        let (answer, _) = client.send(client.request("POST", "/broken"), true).await;
        assert_eq!(answer.await.unwrap().status().as_u16(), 502);
    });
    assert_eq!(tries.load(Ordering::SeqCst), 3);
    gateway.records(2);
}

#[test]
fn the_reason_for_which_an_upstream_resets_reaches_the_client() {
    let origin = origin(&["origin.test"], |request, mut answer| async move {
        let path = request.uri().path().to_owned();
        let reason = match path.rsplit('/').next() {
            Some("cancel") => Reason::CANCEL,
            Some("calm") => Reason::ENHANCE_YOUR_CALM,
            _ => Reason::FLOW_CONTROL_ERROR,
        };
        if path.starts_with("/begun") {
            let mut stream = answer.send_response(Response::new(()), false).ok()?;
            stream.send_data(Bytes::from_static(b"a part"), false).ok()?;
            // The client ends its half when it has the part.
            read(&mut request.into_body()).await?;
            stream.send_reset(reason);
        } else {
            answer.send_reset(reason);
        }
        Some(())
    });
    let gateway = Gateway::start(1, &origin);
    let ends =
        [("cancel", Reason::CANCEL), ("calm", Reason::ENHANCE_YOUR_CALM), ("other", Reason::INTERNAL_ERROR)];
    run(async {
        let mut client = Client::connect(&gateway, "origin.test", origin.address.port()).await;
        for (path, reason) in ends {
            let (answer, mut body) =
                client.send(client.request("PUT", &format!("/begun/{path}")), false).await;
            let mut part = answer.await.unwrap().into_body();
            assert_eq!(next(&mut part).await.unwrap().unwrap(), "a part");
            body.send_data(Bytes::new(), true).unwrap();
            assert_eq!(next(&mut part).await.unwrap().unwrap_err().reason(), Some(reason), "{path}");

            let mut call = client.request("POST", &format!("/call/{path}"));
            call.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
            assert_eq!(client.send(call, true).await.0.await.unwrap_err().reason(), Some(reason), "{path}");

            let (answer, _) = client.send(client.request("POST", &format!("/early/{path}")), true).await;
            let refused = whole(answer).await.unwrap();
            assert_eq!(refused.head.status().as_u16(), 502);
            assert!(refused.text().contains("the upstream reset the stream"), "{}", refused.text());
        }
    });
    for record in gateway.records(9) {
        assert_eq!(record["code"], "upstream_reset", "{record}");
    }
}

#[test]
fn a_slow_reader_holds_back_the_upstream_and_a_slow_upstream_the_sender() {
    const LARGE: usize = 24 << 20;
    let (sent, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, look) = (Arc::clone(&sent), Arc::clone(&seen));
    let origin = origin(&["origin.test"], move |request, mut answer| {
        let (count, look) = (Arc::clone(&count), Arc::clone(&look));
        async move {
            if request.uri().path() == "/up" {
                // Reads nothing before it is told to.
                let mut body = request.into_body();
                answer.send_informational(Response::builder().status(103).body(()).ok()?).ok()?;
                while look.load(Ordering::SeqCst) == 0 {
                    tokio::task::yield_now().await;
                }
                let (body, _) = read(&mut body).await?;
                return respond(&mut answer, body.len().to_string(), None);
            }
            let mut stream = answer.send_response(Response::new(()), false).ok()?;
            let mut left = LARGE;
            while left > 0 {
                stream.reserve_capacity(left.min(1 << 16));
                let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?;
                let part = room.min(left);
                left -= part;
                count.fetch_add(part, Ordering::SeqCst);
                stream.send_data(Bytes::from(vec![7; part]), left == 0).ok()?;
            }
            Some(())
        }
    });
    let gateway = Gateway::start(1, &origin);
    run(async {
        let mut settings = h2::client::Builder::new();
        // Room for the others beside what one stream leaves lying.
        settings.initial_connection_window_size(1 << 20);
        let mut client = Client::with(settings, &gateway, "origin.test", origin.address.port()).await;
        let (answer, _) = client.send(client.request("GET", "/down"), true).await;
        let mut body = answer.await.unwrap().into_body();
        assert!(!next(&mut body).await.unwrap().unwrap().is_empty());
        // Other requests of the connection go on meanwhile.
        let (answer, mut up) = client.send(client.request("PUT", "/up"), false).await;
        up.reserve_capacity(LARGE);
        let mut handed = 0;
        for _ in 0..10_000 {
            let room = up.capacity();
            if room > 0 {
                up.send_data(Bytes::from(vec![9; room]), false).unwrap();
                handed += room;
                up.reserve_capacity(LARGE - handed);
            }
            tokio::task::yield_now().await;
        }
        assert!(handed < LARGE / 2, "{handed} bytes of the upload were taken");
        assert!(
            sent.load(Ordering::SeqCst) < LARGE / 2,
            "{} bytes were sent down",
            sent.load(Ordering::SeqCst)
        );
        seen.store(1, Ordering::SeqCst);
        while handed < LARGE {
            up.reserve_capacity(LARGE - handed);
            let room = std::future::poll_fn(|cx| up.poll_capacity(cx)).await.unwrap().unwrap();
            handed += room;
            up.send_data(Bytes::from(vec![9; room]), handed == LARGE).unwrap();
        }
        assert_eq!(whole(answer).await.unwrap().text(), LARGE.to_string());
        let mut received = 0;
        while let Some(data) = next(&mut body).await {
            received += data.unwrap().len();
        }
        assert!(received > LARGE / 2);
    });
    gateway.records(2);
}

#[test]
fn requests_do_not_join_a_connection_on_which_a_reader_stands_still() {
    let origin = origin(&["origin.test"], |request, mut answer| async move {
        if request.uri().path() != "/large" {
            return respond(&mut answer, "small", None);
        }
        // More than every window on the way.
        let mut stream = answer.send_response(Response::new(()), false).ok()?;
        loop {
            stream.reserve_capacity(1 << 16);
            let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?;
            stream.send_data(Bytes::from(vec![7; room]), false).ok()?;
        }
    });
    let gateway = Gateway::start(1, &origin);
    run(async {
        let port = origin.address.port();
        let mut slow = Client::connect(&gateway, "origin.test", port).await;
        let (large, stream) = slow.send(slow.request("GET", "/large"), true).await;
        let large = large.await.unwrap().into_body();
        let mut quick = Client::connect(&gateway, "origin.test", port).await;
        let mut asked = 0;
        while origin.connections() < 2 {
            assert_eq!(quick.get("/small").await.text(), "small");
            asked += 1;
        }
        println!("{asked} requests before the reader was noticed");
        drop((large, stream));
    });
    gateway.stop();
}

#[test]
fn a_change_of_policy_cuts_a_stream_on_both_legs_and_other_streams_of_the_connection_go_on() {
    let broken = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&broken);
    let mut settings = h2::server::Builder::new();
    settings.max_concurrent_streams(10);
    let origin = origin_with(settings, &["origin.test"], move |request, mut answer| {
        let seen = Arc::clone(&seen);
        async move {
            let mut stream = answer.send_response(Response::new(()), false).ok()?;
            stream.send_data("first".into(), false).ok()?;
            let reset = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
            if reset.is_ok_and(|reason| reason == Reason::CANCEL) && request.uri().path() == "/cut" {
                seen.fetch_add(1, Ordering::SeqCst);
            }
            Some(())
        }
    });
    let mut gateway = Gateway::start(1, &origin);
    run(async {
        let mut client = Client::connect(&gateway, "origin.test", origin.address.port()).await;
        let mut bodies = Vec::new();
        for path in ["/cut", "/cut"] {
            let (answer, _) = client.send(client.request("GET", path), true).await;
            let mut body = answer.await.unwrap().into_body();
            assert_eq!(next(&mut body).await.unwrap().unwrap(), "first");
            bodies.push(body);
        }
        gateway.apply(vec![policy("[]")]);
        for body in &mut bodies {
            assert_eq!(next(body).await.unwrap().unwrap_err().reason(), Some(Reason::CANCEL));
        }
        while broken.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(client.get("/").await.head.status().as_u16(), 403);
    });
    assert_eq!(origin.connections(), 1);
    let records = gateway.records(3);
    assert_eq!(records[0]["verdict"], "cut");
}

/// An origin that takes connections and says nothing, and tells when one has ended.
fn silent() -> (Origin, mpsc::Receiver<()>) {
    let (told, ended) = mpsc::channel();
    let origin = Origin::wire(&[], move |wire| {
        let mut bytes = [0; 4096];
        while wire.read(&mut bytes).is_ok_and(|count| count > 0) {}
        told.send(()).map_err(std::io::Error::other)
    });
    (origin, ended)
}

#[test]
fn a_client_that_leaves_and_a_policy_that_changes_end_the_dialling_of_an_upstream() {
    for by_policy in [false, true] {
        let (origin, ended) = silent();
        let mut gateway = Gateway::start(1, &origin);
        run(async {
            let mut client = Client::connect(&gateway, "origin.test", origin.address.port()).await;
            let (answer, mut stream) = client.send(client.request("GET", "/"), true).await;
            while origin.connections() == 0 {
                tokio::task::yield_now().await;
            }
            match by_policy {
                true => gateway.apply(vec![policy("[]")]),
                false => stream.send_reset(Reason::CANCEL),
            }
            let ended = tokio::task::spawn_blocking(move || ended.recv_timeout(PATIENCE));
            assert_eq!(
                (answer.await.unwrap_err().reason(), ended.await.unwrap()),
                (Some(Reason::CANCEL), Ok(()))
            );
        });
        let record = &gateway.records(1)[0];
        let code = if by_policy { "revoked" } else { "client_gone" };
        assert_eq!(record["code"], code, "{record}");
    }
}

#[test]
fn requests_that_are_begun_and_broken_off_leave_nothing_under_way() {
    const TIMES: usize = 300;
    let origin = origin(&["origin.test"], |request, mut answer| async move {
        if request.uri().path() == "/last" {
            return respond(&mut answer, "last", None);
        }
        let mut stream = answer.send_response(Response::new(()), false).ok()?;
        std::future::poll_fn(|cx| stream.poll_reset(cx)).await.ok().map(drop)
    });
    let gateway = Gateway::start(1, &origin);
    run(async {
        let mut client = Client::connect(&gateway, "origin.test", origin.address.port()).await;
        for _ in 0..TIMES {
            let (answer, mut stream) = client.send(client.request("GET", "/"), true).await;
            let _body = answer.await.unwrap();
            stream.send_reset(Reason::CANCEL);
        }
        assert_eq!(client.get("/last").await.text(), "last");
    });
    assert_eq!(origin.connections(), 1);
    let records = gateway.records(TIMES + 1);
    assert_eq!(records.iter().filter(|record| record["code"] == "client_gone").count(), TIMES);
}
