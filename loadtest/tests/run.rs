//! A run against the bundled origin counts what the origin counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use loadtest::{
    client,
    origin::{Credentials, Origin},
    plan::{Plan, Way},
};

fn run_against_origin(tls: bool, reconnect: bool) {
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("root.pem");
    let credentials = tls.then(|| Credentials::make(&["origin.test".to_owned()]).unwrap());
    if let Some(credentials) = &credentials {
        credentials.write_root(&roots).unwrap();
    }
    let origin =
        Origin::bind("127.0.0.1:0".parse().unwrap(), credentials, 100).unwrap().expect("accept: */*");
    let (address, counts, stop) =
        (origin.address().unwrap(), origin.counts(), Arc::new(AtomicBool::new(false)));
    let server = thread::spawn({
        let stop = Arc::clone(&stop);
        move || origin.serve(&stop)
    });
    let plan = Plan {
        way: Way::Direct(address),
        host: "origin.test".into(),
        port: address.port(),
        roots: tls.then_some(roots),
        connections: 4,
        reconnect,
        path: "/".into(),
        time: Duration::from_secs(20),
        requests_max: 200,
        pids: Vec::new(),
    };
    let report = client::run(&plan).unwrap();
    stop.store(true, Ordering::Relaxed);
    server.join().unwrap().unwrap();
    assert!(report.answers >= 200);
    assert_eq!(report.errors, 0, "{:?}", report.first_error);
    assert_eq!(report.statuses.keys().copied().collect::<Vec<_>>(), [200]);
    assert_eq!(report.body_bytes, report.answers * 100);
    assert!(counts.requests.load(Ordering::Relaxed) >= report.answers);
    assert_eq!(counts.without_expected.load(Ordering::Relaxed), 0);
}

#[test]
fn plain_run_counts_every_answer() {
    run_against_origin(false, false);
}

#[test]
fn tls_run_counts_every_answer() {
    run_against_origin(true, false);
}

#[test]
fn tls_run_with_new_connections_counts_every_answer() {
    run_against_origin(true, true);
}

#[test]
fn target_that_refuses_is_one_clear_error() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let plan = Plan {
        way: Way::Direct(address),
        host: "origin.test".into(),
        port: address.port(),
        roots: None,
        connections: 1,
        reconnect: false,
        path: "/".into(),
        time: Duration::from_secs(1),
        requests_max: 1,
        pids: Vec::new(),
    };
    assert!(client::run(&plan).unwrap_err().to_string().contains("cannot connect"));
}
