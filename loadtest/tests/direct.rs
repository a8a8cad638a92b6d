//! Loads of the bundled origin itself, without a gateway: every protocol and every way to use a connection counts the
//! same on both sides.

use std::{net::SocketAddr, sync::atomic::Ordering};

use loadtest::{
    authority::Authority,
    gateway::direct,
    origin::{LEGS, Origin},
    plan::{Connect, Load, Plan, Scheme},
    report::{PER_GIB, Row},
    session::{Session, Subject},
    usage::Pid,
};

fn plan() -> Plan {
    Plan { name: "direct".into(), about: String::new(), rounds: 1, rows: Vec::new() }
}

/// Loads the origin, and answers what was found beside what the origin counted.
fn run(load: &Load) -> (Row, u64, u64) {
    let authority = Authority::make().unwrap();
    let origin = Origin::start(&authority, false).unwrap();
    let doors = LEGS.map(|leg| SocketAddr::from(([127, 0, 0, 1], origin.port(leg))));
    let target = direct(doors, origin.ports, vec![Pid(std::process::id())], authority.pem());
    let session = Session { origin: &origin, allow_remote: false };
    let row = session.row(&mut Subject::Other(&target), &plan(), load).unwrap();
    assert!(row.is_clean(), "{:?} {:?}", row.faults, row.words);
    let counts = &origin.judge.counts;
    (row, counts.requests.load(Ordering::Relaxed), counts.connections.load(Ordering::Relaxed))
}

fn load() -> Load {
    Load { connections: 4, warm_up: 0.0, seconds: 60.0, counted: 0.0, requests: Some(200), ..Load::default() }
}

#[test]
fn kept_connections_answer_all_requests() {
    for load in [
        Load { scheme: Scheme::Http, ..load() },
        load(),
        Load { streams: Some(8), origin_http2: true, ..load() },
        Load { up: 300_000, down: 0, ..load() },
        Load { down: 3_000_000, requests: Some(20), ..load() },
        Load { down: 3_000_000, requests: Some(20), streams: Some(3), origin_http2: true, ..load() },
    ] {
        let (row, requests, connections) = run(&load);
        assert!(
            row.figures["answers"] >= load.requests.unwrap() as f64
                && requests as f64 >= row.figures["answers"]
        );
        assert_eq!(connections, 4, "{load:?}");
        assert!(row.cost().is_some_and(|(_, cost)| cost > 0.0));
    }
}

#[test]
fn large_bodies_are_paid_for_by_the_byte_also_where_none_ended_in_time() {
    for (down, up) in [(256 << 20, 0), (0, 256 << 20)] {
        let load = Load { down, up, connections: 1, seconds: 0.1, requests: None, ..load() };
        let (row, ..) = run(&load);
        assert!(row.figures["mibPerSecond"] > 0.1, "{:?}", row.figures);
        assert_eq!(row.cost().map(|(unit, _)| unit), Some(PER_GIB));
        assert!(!row.figures.contains_key("cpuMicrosPerRequest"), "no request was paid for whole");
    }
}

#[test]
fn new_connections_are_made_for_each_request_and_resumed_where_asked() {
    for connect in [Connect::Full, Connect::Resumed] {
        let (row, _, connections) = run(&Load { connect, ..load() });
        assert!(connections >= 200, "{connections}");
        let resumed = row.figures.get("resumedHandshakes").copied().unwrap_or(0.0);
        match connect {
            // The first of each place has nothing to resume.
            Connect::Resumed => assert!(resumed >= 190.0, "{resumed}"),
            _ => assert_eq!(resumed, 0.0),
        }
    }
}

#[test]
fn an_open_loop_asks_as_often_as_it_says() {
    let load = Load { rate: Some(500.0), seconds: 1.0, requests: None, ..load() };
    let (row, requests, _) = run(&load);
    assert!((450..=520).contains(&requests), "{requests}");
    assert!(row.figures["p50Micros"] > 0.0);
    let (_, requests, connections) = run(&Load { connect: Connect::Full, ..load });
    assert!((450..=520).contains(&requests), "{requests}");
    assert_eq!(requests, connections);
}

#[test]
fn idle_connections_ask_once_and_are_silent() {
    let (row, requests, connections) =
        run(&Load { idle: true, connections: 300, seconds: 0.2, silence: 0.1, ..load() });
    assert_eq!((requests, connections), (300, 300));
    assert!(row.figures.contains_key("idleKiBPerConnection"));
}

#[test]
fn a_target_that_refuses_is_one_clear_error() {
    let authority = Authority::make().unwrap();
    let origin = Origin::start(&authority, false).unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let target = direct([closed; 3], origin.ports, Vec::new(), authority.pem());
    let session = Session { origin: &origin, allow_remote: false };
    let error = session.row(&mut Subject::Other(&target), &plan(), &load()).unwrap_err().to_string();
    assert!(error.contains("refuses connections; does direct run?"), "{error}");
}

#[test]
fn a_certificate_of_another_authority_is_one_clear_error() {
    let authority = Authority::make().unwrap();
    let origin = Origin::start(&authority, false).unwrap();
    let doors = LEGS.map(|leg| SocketAddr::from(([127, 0, 0, 1], origin.port(leg))));
    let other = Authority::make().unwrap();
    let target = direct(doors, origin.ports, Vec::new(), other.pem());
    let session = Session { origin: &origin, allow_remote: false };
    let error = session.row(&mut Subject::Other(&target), &plan(), &load()).unwrap_err().to_string();
    assert!(error.contains("does not trust the certificate"), "{error}");
}
