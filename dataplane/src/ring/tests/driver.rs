//! The driver: timers, the mailbox, sleeping and waking, and how a ring ends.

use super::*;

#[test]
fn timers_fire_in_order_and_never_early() {
    on_shard(|| async {
        let last = Rc::new(Cell::new(Instant::now()));
        // Tasks of their own: within one task, what is ready is polled as it is written.
        let timers = [300, 10, 60, 0, 200, 201].map(|millis| {
            let time = Duration::from_millis(millis);
            let (last, early) = (Rc::clone(&last), Instant::now() + time);
            let timer = Sleep::new(time);
            let late = Instant::now() + time;
            glommio::spawn_local(async move {
                timer.await;
                assert!(Instant::now() >= early);
                assert!(last.replace(early) <= late + timer::TICK);
            })
        });
        for timer in timers {
            timer.await;
        }
        assert_eq!(timeout(Duration::from_millis(5), std::future::pending::<()>()).await, Err(Elapsed));
        assert_eq!(Ring::current().stats().timers, 0);
    });
}

#[test]
fn a_busy_shard_hears_its_mailbox() {
    let (sender, mut receiver) = mailbox::channel::<Instant>(16);
    let worst = on_shard(move || async move {
        let stop = Rc::new(Cell::new(false));
        let busy = (0..16).map(|_| {
            let stop = Rc::clone(&stop);
            glommio::spawn_local(async move {
                let (client, server) = pair().await;
                while !stop.get() {
                    client.send(b"x").await.unwrap();
                    server.receive().await.unwrap();
                }
            })
        });
        let busy: Vec<_> = busy.collect();
        let (done, mut finished) = mailbox::channel(1);
        glommio::spawn_local(async move {
            let mut delays = Vec::new();
            while let Some(sent) = receiver.recv().await {
                delays.push(sent.elapsed());
            }
            done.try_send(delays).unwrap();
        })
        .detach();
        let other = std::thread::spawn(move || {
            (0..200).for_each(|_| sender.send_blocking(Instant::now()).unwrap());
        });
        let delays = finished.recv().await.unwrap();
        stop.set(true);
        for task in busy {
            task.await;
        }
        other.join().unwrap();
        delays.len()
    });
    assert_eq!(worst, 200);
}

#[test]
fn a_slot_merges_what_its_reader_did_not_see() {
    on_shard(|| async {
        let slot = mailbox::Slot::new();
        let writer = slot.clone();
        std::thread::spawn(move || (1..=5).for_each(|n| writer.put(vec![n], |there, new| there.extend(new))))
            .join()
            .unwrap();
        assert_eq!(slot.take().await, vec![1, 2, 3, 4, 5]);
        assert!(slot.try_take().is_none());
    });
}

#[test]
fn a_shutdown_ends_what_is_in_flight() {
    let ended = executor_builder(glommio::Placement::Unbound)
        .spawn(|| async {
            let ring = start(RingConfig::small()).await.unwrap();
            let errors = Rc::new(std::cell::RefCell::new(Vec::new()));
            let run = |name: &'static str, operation: LocalBoxFuture<io::Result<()>>| {
                let errors = Rc::clone(&errors);
                glommio::spawn_local(async move {
                    let error = operation.await.expect_err(name);
                    errors.borrow_mut().push((name, error.raw_os_error()));
                })
            };
            let (_silent, server) = pair().await;
            let (client, _deaf) = pair().await;
            let (other, body) = pair().await;
            let (idle, address) = listener();
            let datagram = Datagram::connect(address).unwrap();
            // Nobody answers there (RFC 5737); where there is no route, the connect fails at once.
            let dial = Stream::connect(([192, 0, 2, 1], 9).into());
            let dial = async move {
                dial.await.map(drop).map_err(|_| io::Error::from_raw_os_error(libc::ESHUTDOWN))
            };
            let tasks = [
                run("receive", Box::pin(async move { server.receive().await.map(drop) })),
                run("receive_body", Box::pin(async move { body.receive_body().await.map(drop) })),
                run("send", Box::pin(async move { client.send(&vec![0; 64 << 20]).await })),
                run("accept", Box::pin(async move { idle.accept().await.map(drop) })),
                run("datagram", Box::pin(async move { datagram.recv().await.map(drop) })),
                run("connect", Box::pin(dial)),
            ];
            turns(3).await;
            let core = Rc::clone(&ring.0);
            assert!(core.stats().in_flight > 5, "{:?}", core.stats());
            // Queued and not yet seen by the kernel.
            assert!(poll_once(other.receive()).await.is_none());
            ring.shutdown().await;
            for task in tasks {
                task.await;
            }
            assert_eq!(other.receive().await.unwrap_err().raw_os_error(), Some(libc::ESHUTDOWN));
            drop(other);
            let stats = core.stats();
            assert_eq!((stats.in_flight, stats.operations, stats.head_buffers_out), (0, 0, 0), "{stats:?}");
            Rc::into_inner(errors).unwrap().into_inner()
        })
        .unwrap()
        .join()
        .unwrap();
    assert_eq!(ended.len(), 6);
    assert!(ended.iter().all(|(_, error)| *error == Some(libc::ESHUTDOWN)), "{ended:?}");
}

/// glommio 0.9 sleeps over runnable tasks when its preemption timer fires at a bad moment. It hung one run of these
/// tests in ten on a loaded machine.
#[test]
fn no_timer_preempts_a_shard() {
    on_shard(|| async {
        yield_now().await;
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(150) {
            std::hint::spin_loop();
        }
        assert!(!glommio::executor().need_preempt());
    });
}

#[test]
fn a_machine_that_refuses_the_ring_is_told_which_setting_would_allow_it() {
    // A filter holds for its thread and what that starts.
    let refused = std::thread::spawn(|| {
        sys::forbid_ring();
        preflight()
    });
    let refused = refused.join().unwrap().expect_err("the filter refuses").to_string();
    assert!(refused.contains("seccomp") && refused.contains("io_uring_setup"), "{refused}");
}

#[test]
fn what_is_left_in_a_scope_ends_with_it_and_gives_back_what_it_holds() {
    on_shard(|| async {
        let (scope, held) = (Scope::default(), Rc::new(()));
        for waits in [true, false, true] {
            let held = Rc::clone(&held);
            scope.spawn(async move {
                if waits {
                    std::future::pending::<()>().await;
                }
                drop(held);
            });
        }
        let (client, server) = pair().await;
        scope.spawn(async move {
            let _closed = server.receive().await;
        });
        yield_now().await;
        assert_eq!((scope.len(), Rc::strong_count(&held)), (3, 3));
        scope.end().await;
        assert!(scope.is_empty() && Rc::strong_count(&held) == 1);
        assert!(client.receive().await.unwrap().is_none(), "the socket was closed");
        let late = Rc::clone(&held);
        scope.spawn(async move { drop(late) });
        scope.end().await;
        assert_eq!(Rc::strong_count(&held), 1);
    });
}

/// A small generator with a seed, so that a failure comes again.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// Waits in one of the ways in which a shard can be found: at once, after a spin, after a sleep.
async fn pause(state: &mut u64) {
    match random(state) % 64 {
        0 => sleep(Duration::from_millis(random(state) % 4)).await,
        1..12 => {
            let (start, time) = (Instant::now(), Duration::from_micros(random(state) % 1200));
            while start.elapsed() < time {
                std::hint::spin_loop();
            }
        }
        12..20 => yield_now().await,
        _ => {}
    }
}

#[test]
fn no_completion_is_missed_whatever_a_shard_was_doing() {
    const ROUNDS: u32 = 10_000;
    let bound = Duration::from_secs(20);
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let other = std::thread::spawn(move || {
        on_shard(move || async move {
            let listener = Listener::from_fd(listener.into()).unwrap();
            let stream = listener.accept().await.unwrap();
            let mut seed = 1;
            while let Some(ball) = timeout(bound, stream.receive()).await.expect("no stall").unwrap() {
                pause(&mut seed).await;
                stream.send(&ball).await.unwrap();
            }
        });
    });
    on_shard(move || async move {
        let stream = Stream::connect(address).await.unwrap();
        let mut seed = 2;
        for round in 0..ROUNDS {
            stream.send(&round.to_le_bytes()).await.unwrap();
            pause(&mut seed).await;
            let start = Instant::now();
            let ball = timeout(bound, stream.receive()).await.expect("no stall").unwrap().unwrap();
            assert_eq!(&*ball, round.to_le_bytes());
            assert!(start.elapsed() < Duration::from_secs(10), "a completion came only with the time-out");
        }
    });
    other.join().unwrap();
}

#[test]
fn an_idle_shard_sleeps_until_its_next_timer() {
    on_shard(|| async {
        let ring = Ring::current();
        let (_client, server) = pair().await;
        server.arm();
        sleep(Duration::from_millis(20)).await;
        let before = ring.stats();
        sleep(Duration::from_millis(400)).await;
        let after = ring.stats();
        // The timer is looked for once more where it was a moment too early, and each level of the wheel once.
        assert!(after.enters - before.enters <= 6, "{before:?} {after:?}");
    });
}

#[test]
fn a_quiet_shard_enters_the_ring_once_for_each_message_of_its_peer() {
    const MESSAGES: u64 = 200;
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let peer = std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut stream, mut ball) = (listener.accept().unwrap().0, [0]);
        while stream.read(&mut ball).unwrap() > 0 {
            stream.write_all(&ball).unwrap();
        }
    });
    on_shard(move || async move {
        let stream = Stream::connect(address).await.unwrap();
        let before = Ring::current().stats().enters;
        for _ in 0..MESSAGES {
            stream.send(b"x").await.unwrap();
            assert_eq!(&*stream.receive().await.unwrap().unwrap(), b"x");
        }
        let entered = Ring::current().stats().enters - before;
        // Signals and what the test's watchdog does may take a few more.
        assert!(entered <= MESSAGES + 10, "{entered}");
    });
    peer.join().unwrap();
}
