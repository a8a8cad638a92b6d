//! What a ring promises, on real sockets.

mod driver;

use std::{
    cell::Cell,
    io,
    rc::Rc,
    time::{Duration, Instant},
};

use futures_lite::future::{BoxedLocal as LocalBoxFuture, poll_once, zip};

use super::{testing::*, *};

/// Waits until the ring holds nothing but what the driver itself holds.
async fn settled(ring: &Ring, operations: usize) {
    let end = Instant::now() + Duration::from_secs(5);
    while ring.stats().operations > operations {
        assert!(Instant::now() < end, "{:?}", ring.stats());
        turns(1).await;
    }
}

#[test]
fn bytes_go_both_ways_and_the_end_is_seen() {
    on_shard(|| async {
        let (client, server) = pair().await;
        client.send(b"hello").await.unwrap();
        assert_eq!(&*server.receive().await.unwrap().unwrap(), b"hello");
        server.send(b"back").await.unwrap();
        assert_eq!(&*client.receive_body().await.unwrap().unwrap(), b"back");
        drop(client);
        assert!(server.receive().await.unwrap().is_none());
    });
}

#[test]
fn dropped_operations_leave_no_slot_buffer_or_stranger_behind() {
    on_shard(|| async {
        let ring = Ring::current();
        turns(2).await;
        let before = ring.stats().operations;
        for round in 0..200_u32 {
            let (listener, address) = listener();
            assert!(poll_once(listener.accept()).await.is_none());
            assert!(poll_once(Stream::connect(address)).await.is_none());
            let (client, server) = pair().await;
            assert!(poll_once(server.receive()).await.is_none());
            if round % 2 == 0 {
                client.send(b"in flight").await.unwrap();
            }
            if round % 20 == 1 {
                assert!(poll_once(client.send(&vec![0; 16 << 20])).await.is_none());
            }
        }
        settled(&ring, before).await;
        let stats = ring.stats();
        assert_eq!((stats.head_buffers_out, stats.body_buffers_out, stats.strays), (0, 0, 0));
    });
}

/// Dropped operations whose numbers named the next thing that got the number hung other tests at random, one run in
/// sixteen: an entry waited in the queue while its descriptor was closed, and the kernel looks the number up only
/// when the entry is submitted. A dropped descriptor is now closed after that.
#[test]
fn what_was_queued_for_a_dropped_stream_does_not_reach_the_next_owner_of_its_number() {
    on_shard(|| async {
        for _ in 0..50 {
            let (client, server) = pair().await;
            turns(2).await;
            let number = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&server));
            server.arm();
            drop(server);
            let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
            // Other tests make descriptors at the same time, so the number may be taken by them: then they would
            // suffer. Asking for it by name makes sure that somebody has it.
            let stolen = rustix::io::fcntl_dupfd_cloexec(&theirs, number).unwrap();
            let ours = Stream::from_fd(ours.into()).unwrap();
            ours.send(b"mine").await.unwrap();
            turns(2).await;
            let theirs = Stream::from_fd(stolen).unwrap();
            let got = timeout(Duration::from_secs(5), theirs.receive()).await;
            assert_eq!(&*got.expect("nobody took the bytes").unwrap().unwrap(), b"mine");
            drop(client);
        }
    });
}

#[test]
fn a_dropped_listener_takes_nobody_though_the_shard_sleeps() {
    on_shard(|| async {
        let ((_silent, other), (dropped, address)) = (pair().await, listener());
        turns(2).await;
        // Something for the kernel of which nothing will come, so the listener cannot be closed at once.
        other.arm();
        drop(dropped);
        let (tell, mut told) = mailbox::channel(1);
        let asking = std::thread::spawn(move || {
            let end = Instant::now() + Duration::from_secs(5);
            let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
            let ask = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100));
            while Instant::now() < end && !ask().is_err_and(refused) {}
            tell.send_blocking(Instant::now() < end).unwrap();
        });
        assert_eq!(told.recv().await, Some(true));
        asking.join().unwrap();
    });
}

/// The same for a connect: another socket would have dialled where this one was to go.
#[test]
fn a_connect_that_was_dropped_before_it_was_sent_does_not_connect_a_stranger() {
    on_shard(|| async {
        let (listener, address) = listener();
        turns(2).await;
        for _ in 0..50 {
            assert!(poll_once(Stream::connect(address)).await.is_none());
            let strangers: Vec<_> = (0..4)
                .map(|_| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap())
                .collect();
            turns(2).await;
            for stranger in strangers {
                assert!(stranger.peer_addr().is_err(), "a socket that nobody connected is connected");
            }
        }
        drop(listener);
    });
}

#[test]
fn a_dropped_await_loses_no_byte() {
    on_shard(|| async {
        let (client, server) = pair().await;
        let mut got: Vec<u8> = Vec::new();
        for number in 0..200_u8 {
            let _ = poll_once(server.receive()).await.map(|bytes| got.extend(&*bytes.unwrap().unwrap()));
            client.send(&[number]).await.unwrap();
        }
        client.shutdown_write().unwrap();
        while let Some(bytes) = server.receive().await.unwrap() {
            got.extend(&*bytes);
        }
        assert_eq!(got, (0..200).collect::<Vec<_>>());
    });
}

#[test]
fn a_reader_that_sleeps_holds_no_more_than_its_bound() {
    on_shard(|| async {
        let ring = Ring::current();
        let (client, server) = pair().await;
        let (other, quiet) = pair().await;
        server.arm();
        let sender = async {
            for _ in 0..20_000 {
                if timeout(Duration::from_millis(40), client.send(&[7; 1000])).await.is_err() {
                    break;
                }
            }
        };
        sender.await;
        turns(3).await;
        // What came beyond the bound while the cancel was on its way has left the pool.
        assert!(
            usize::from(ring.stats().head_buffers_out) <= crate::limits::RECEIVED_QUEUE_MAX,
            "{:?}",
            ring.stats()
        );
        assert!(client.bytes_sent() < 20_000_000, "the kernel's window slows the sender down");
        other.send(b"x").await.unwrap();
        assert_eq!(&*quiet.receive().await.unwrap().unwrap(), b"x");
        let mut length = 0;
        let sent = client.bytes_sent();
        while length < sent {
            length += server.receive().await.unwrap().unwrap().len() as u64;
        }
        assert_eq!(length, sent);
    });
}

#[test]
fn receives_without_a_buffer_wait_and_recover() {
    let config = RingConfig { entries: 256, head_buffers: (2, 512), body_buffers: (2, 512) };
    on_shard_with(config, || async {
        let ring = Ring::current();
        let mut pairs = Vec::new();
        for _ in 0..8 {
            pairs.push(pair().await);
        }
        for (client, server) in &pairs {
            server.arm();
            client.send(b"0123456789").await.unwrap();
        }
        turns(3).await;
        let enters = ring.stats().enters;
        assert!(ring.stats().starved >= 6, "{:?}", ring.stats());
        turns(20).await;
        assert!(ring.stats().starved <= 40 && ring.stats().enters - enters < 200, "starved receives spin");
        for (_, server) in &pairs {
            assert_eq!(&*server.receive().await.unwrap().unwrap(), b"0123456789");
        }
    });
}

#[test]
fn each_half_ends_on_its_own() {
    on_shard(|| async {
        let (client, server) = pair().await;
        client.shutdown_write().unwrap();
        assert!(server.receive().await.unwrap().is_none());
        server.send(b"still").await.unwrap();
        assert_eq!(&*client.receive().await.unwrap().unwrap(), b"still");
    });
}

#[test]
fn a_dropped_stream_ends_at_its_peer_though_a_receive_was_armed() {
    on_shard(|| async {
        let (left, right) = std::os::unix::net::UnixStream::pair().unwrap();
        let (left, right) = (Stream::from_fd(left.into()).unwrap(), Stream::from_fd(right.into()).unwrap());
        left.arm();
        turns(2).await;
        drop(left);
        let end = timeout(Duration::from_secs(2), right.receive()).await;
        assert!(end.expect("the end is seen").unwrap().is_none());
    });
}

#[test]
fn a_reset_reaches_the_peer_and_wakes_our_reader() {
    on_shard(|| async {
        let (client, server) = pair().await;
        let (ours, ()) = zip(client.receive(), async {
            turns(2).await;
            client.reset();
            client.reset();
        })
        .await;
        assert_eq!(ours.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(server.receive().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_stream_is_handed_on_with_the_bytes_already_read() {
    on_shard(|| async {
        let (client, server) = pair().await;
        server.arm();
        client.send(b"read ahead").await.unwrap();
        turns(3).await;
        let (socket, bytes) = server.into_parts().await.unwrap();
        assert_eq!(bytes, b"read ahead");
        let again = Stream::from_parts(socket, bytes).unwrap();
        client.send(b"later").await.unwrap();
        assert_eq!(&*again.receive().await.unwrap().unwrap(), b"read ahead");
        assert_eq!(&*again.receive().await.unwrap().unwrap(), b"later");
    });
}

#[test]
fn a_datagram_tells_where_it_was_sent_and_is_answered_from_there() {
    on_shard(|| async {
        let socket = std::net::UdpSocket::bind(("0.0.0.0", 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        let server = Datagram::from_fd(socket.into()).unwrap();
        let client = Datagram::connect(([127, 0, 0, 9], port).into()).unwrap();
        let (received, ()) = zip(server.recv_from(), async { client.send(b"question").await.unwrap() }).await;
        let (bytes, from, to) = received.unwrap();
        assert_eq!((&*bytes, to), (&b"question"[..], Some([127, 0, 0, 9].into())));
        server.send_from(b"answer", from, to).await.unwrap();
        assert_eq!(&*client.recv().await.unwrap(), b"answer");
    });
}

#[test]
fn a_starved_receive_gives_what_it_took_when_its_reader_turns_to_bodies_or_hands_on() {
    let config = RingConfig { entries: 256, head_buffers: (2, 512), body_buffers: (2, 512) };
    on_shard_with(config, || async {
        let ring = Ring::current();
        for hand_on in [false, true] {
            let (client, mut server) = pair().await;
            let sent: Vec<u8> = (0..4000_u32).map(|n| n as u8).collect();
            server.arm();
            let starved = ring.stats().starved;
            client.send(&sent).await.unwrap();
            while ring.stats().starved == starved {
                turns(1).await;
            }
            client.shutdown_write().unwrap();
            if hand_on {
                let (socket, bytes) = server.into_parts().await.unwrap();
                server = Stream::from_parts(socket, bytes).unwrap();
            }
            let mut got: Vec<u8> = Vec::new();
            while let Some(bytes) = server.receive_body().await.unwrap() {
                got.extend(&*bytes);
            }
            assert!(got == sent, "{hand_on}: {} of {}", got.len(), sent.len());
        }
    });
}

#[test]
fn heads_and_bodies_take_turns_on_one_stream() {
    on_shard(|| async {
        let (client, server) = pair().await;
        let sent: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        let reader = async {
            let (mut got, mut turn): (Vec<u8>, u32) = (Vec::new(), 0);
            loop {
                turn += 1;
                let next = if turn % 3 == 0 { server.receive_body().await } else { server.receive().await };
                match next.unwrap() {
                    Some(bytes) => got.extend(&*bytes),
                    None => return got,
                }
            }
        };
        let writer = async {
            for part in sent.chunks(7_001) {
                client.send(part).await.unwrap();
                yield_now().await;
            }
            client.shutdown_write().unwrap();
        };
        let (got, ()) = zip(reader, writer).await;
        assert!(got == sent, "{} of {}", got.len(), sent.len());
    });
}

#[test]
fn the_end_is_seen_again_after_a_hand_over() {
    on_shard(|| async {
        let (client, server) = pair().await;
        server.arm();
        client.send(b"last").await.unwrap();
        client.shutdown_write().unwrap();
        turns(3).await;
        let (socket, bytes) = server.into_parts().await.unwrap();
        let again = Stream::from_parts(socket, bytes).unwrap();
        assert_eq!(&*again.receive().await.unwrap().unwrap(), b"last");
        assert!(timeout(Duration::from_secs(5), again.receive()).await.unwrap().unwrap().is_none());
    });
}

#[test]
fn accepting_pauses_without_descriptors_and_goes_on_with_them() {
    const CHILD: &str = "OUTGATE_TEST_WITHOUT_DESCRIPTORS";
    if std::env::var_os(CHILD).is_none() {
        // The limit is the process's: a process of its own, so that no other test feels it.
        let name = "ring::tests::accepting_pauses_without_descriptors_and_goes_on_with_them";
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        let complained = String::from_utf8_lossy(&child.stderr);
        assert!(child.status.success() && said.contains("1 passed"), "{said}{complained}");
        return;
    }
    on_shard(|| async {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let ring = Ring::current();
        let (listener, address) = listener();
        let clients: Vec<_> = (0..4).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        let limit = getrlimit(Resource::Nofile);
        // The lowest free number: with it as the limit no descriptor can be made.
        let probe = std::fs::File::open("/dev/null").unwrap();
        let lowest = std::os::fd::AsRawFd::as_raw_fd(&probe) as u64;
        drop(probe);
        setrlimit(Resource::Nofile, rustix::process::Rlimit { current: Some(lowest), ..limit }).unwrap();
        assert_eq!(timeout(Duration::from_millis(300), listener.accept()).await.err(), Some(Elapsed));
        let pauses = ring.stats().accept_pauses;
        assert!((1..=20).contains(&pauses), "{pauses}");
        setrlimit(Resource::Nofile, limit).unwrap();
        for client in &clients {
            let accepted = timeout(Duration::from_secs(10), listener.accept()).await.unwrap().unwrap();
            accepted.send(b"in").await.unwrap();
            drop(accepted);
            let mut byte = [0; 2];
            std::io::Read::read_exact(&mut &*client, &mut byte).unwrap();
        }
    });
}

#[test]
fn drained_listener_gives_what_it_accepted_and_leaves_the_rest_to_the_next() {
    on_shard(|| async {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        for _ in 0..50 {
            let before = Listener::from_fd(socket.try_clone().unwrap().into()).unwrap();
            assert!(poll_once(before.accept()).await.is_none());
            let first = std::net::TcpStream::connect(address).unwrap();
            let mut given = 0;
            while before.drain().await.is_some() {
                given += 1;
            }
            assert!(before.drain().await.is_none(), "it has ended");
            let second = std::net::TcpStream::connect(address).unwrap();
            let next = Listener::from_fd(socket.try_clone().unwrap().into()).unwrap();
            for _ in given..2 {
                timeout(Duration::from_secs(20), next.accept()).await.expect("none is forgotten").unwrap();
            }
            drop((first, second));
        }
    });
}

#[test]
fn a_peer_that_takes_nothing_is_given_up_and_one_that_is_slow_is_not() {
    on_shard(|| async {
        let (client, server) = pair().await;
        let much = vec![0; 16 << 20];
        let refused = client.send_within(Duration::from_millis(20), &much).await;
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop((client, server));
        let (client, server) = pair().await;
        let reading = async {
            let mut count = 0;
            while count < much.len() {
                count += server.receive_body().await.unwrap().expect("more").len();
            }
        };
        let (sent, ()) = zip(client.send_within(Duration::from_secs(20), &much), reading).await;
        sent.unwrap();
    });
}
