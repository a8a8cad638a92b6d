//! A control process in a runtime of its own, which can be cut off, killed and started again.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use control::api::{OwnUserListener, router};
use control::client::{Client, Reply};
use control::link::{Core, make_join_token, serve};
use control::tables::{Change, Sandbox, Tables};
use control_wire::policy::PolicyDocument;
use quinn::Endpoint;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

use crate::PATIENCE;

/// One life of control.
pub struct Control {
    pub core: Arc<Core>,
    pub address: SocketAddr,
    pub runtime: Runtime,
    pub state: TempDir,
    client: Client,
    endpoint: Endpoint,
}

/// Any free port of the loopback.
pub fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

impl Control {
    pub fn start() -> Self {
        Self::resume(tempfile::tempdir().unwrap(), anywhere())
    }

    /// Starts on a state folder and an address, either of which may have had another life.
    pub fn resume(state: TempDir, address: SocketAddr) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let entered = runtime.enter();
        let core = runtime.block_on(open(state.path()));
        let endpoint = listen(&core, address);
        let socket = state.path().join("api.sock");
        let _former = std::fs::remove_file(&socket);
        let listener = OwnUserListener::new(UnixListener::bind(&socket).unwrap());
        let api = router(core.clone());
        runtime.spawn(async move { axum::serve(listener, api).await });
        runtime.spawn(serve(core.clone(), endpoint.clone()));
        runtime.spawn(control::answers::forget_ended(core.clone()));
        drop(entered);
        let address = endpoint.local_addr().unwrap();
        Self { core, address, runtime, state, client: Client::new(&socket), endpoint }
    }

    /// Ends without a word to anybody, as a process that is killed.
    pub fn kill(self) -> (TempDir, SocketAddr) {
        self.runtime.shutdown_timeout(PATIENCE);
        (self.state, self.address)
    }

    /// Closes every link and takes no more.
    pub fn cut(&self) {
        self.endpoint.close(0u8.into(), b"cut by the test");
        // The port is free for `mend` only when nobody holds the socket.
        self.runtime.block_on(self.endpoint.wait_idle());
        while self.core.planes.view(&self.core.store.tables()).iter().any(|plane| plane.connected) {
            std::thread::yield_now();
        }
    }

    /// Takes planes again, at the address where they know it.
    pub fn mend(&mut self) {
        let _entered = self.runtime.enter();
        self.endpoint = Endpoint::client(anywhere()).unwrap();
        self.endpoint = listen(&self.core, self.address);
        self.runtime.spawn(serve(self.core.clone(), self.endpoint.clone()));
    }

    pub fn token(&self) -> Zeroizing<String> {
        self.token_for(Duration::from_secs(60))
    }

    pub fn token_for(&self, life: Duration) -> Zeroizing<String> {
        self.runtime.block_on(make_join_token(&self.core, life)).unwrap().0
    }

    pub fn call(&self, method: &str, path: &str, body: impl Into<Vec<u8>>) -> Reply {
        self.runtime.block_on(self.client.send(method, path, &[], body.into())).unwrap()
    }

    /// A call that is answered later.
    pub fn call_later(&self, method: &'static str, path: &str, body: Value) -> Later {
        let (client, path) = (self.client.clone(), path.to_owned());
        let call = async move { client.send(method, &path, &[], body.to_string()).await.unwrap() };
        Later(self.runtime.spawn(call))
    }

    pub fn answer(&self, later: Later) -> Reply {
        self.runtime.block_on(later.0).unwrap()
    }

    /// A call that must succeed; answers its JSON.
    pub fn must(&self, method: &str, path: &str, body: Value) -> Value {
        let reply = self.call(method, path, body.to_string());
        assert!(reply.status.is_success(), "{method} {path}: {} {:?}", reply.status, reply.body);
        json_of(&reply)
    }

    /// Templates in one revision, past the API.
    pub fn put_templates(&self, names: impl IntoIterator<Item = String>) -> u64 {
        let change = |name| Change::Template(name, Some(PolicyDocument::default()));
        self.change(names.into_iter().map(change).collect())
    }

    /// Sandboxes in one revision, past the API.
    pub fn put_sandboxes(&self, ids: impl IntoIterator<Item = String>) -> u64 {
        let row = Sandbox {
            template: "t".into(),
            overrides: PolicyDocument::default(),
            labels: Default::default(),
            salt: [7; 32],
            ca_certificate: None,
            answers: Vec::new(),
        };
        self.change(ids.into_iter().map(|id| Change::Sandbox(id, Some(row.clone()))).collect())
    }

    fn change(&self, changes: Vec<Change>) -> u64 {
        let decide = move |_: &Tables| Ok::<_, std::convert::Infallible>(changes);
        self.runtime.block_on(self.core.store.change(decide)).unwrap()
    }

    pub fn revision(&self) -> u64 {
        self.core.store.tables().revision
    }

    /// Waits until control knows that a plane has acknowledged a revision.
    pub fn until_acknowledged(&self, plane: &str, revision: u64) {
        crate::until("the acknowledgement", || {
            let planes = self.core.planes.view(&self.core.store.tables());
            planes.iter().any(|view| view.name == plane && view.acknowledged >= revision)
        });
    }
}

/// An answer on its way.
pub struct Later(tokio::task::JoinHandle<Reply>);

impl Later {
    pub fn is_there(&self) -> bool {
        self.0.is_finished()
    }
}

pub fn json_of(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&reply.body)))
}

/// Opens the state as `outgate serve` does; a module is published as it is, `repeat:N` as N bytes.
async fn open(state: &Path) -> Arc<Core> {
    let started = Instant::now();
    loop {
        match control::serve::open(state).await {
            Ok(mut core) => {
                let publisher = |module: &[u8]| Ok(envelope(module));
                Arc::get_mut(&mut core).unwrap().publisher = Arc::new(publisher);
                return core;
            }
            // The writer of the life before lets the file go a moment after its last handle.
            Err(error) if started.elapsed() < PATIENCE && error.to_string().contains("in use") => {
                tokio::task::yield_now().await;
            }
            Err(error) => panic!("{}", control::causes::chain(&*error)),
        }
    }
}

/// What the tests' publisher makes of a module.
pub fn envelope(module: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(module);
    let Some(bytes) = text.split(':').nth(1).and_then(|bytes| bytes.parse().ok()) else {
        return module.to_vec();
    };
    module.iter().copied().cycle().take(bytes).collect()
}

/// The socket of the endpoint before is closed by its driver, a moment after its last handle.
fn listen(core: &Core, address: SocketAddr) -> Endpoint {
    let started = Instant::now();
    loop {
        match core.authority.listen(address) {
            Ok(endpoint) => return endpoint,
            Err(error) => assert!(started.elapsed() < PATIENCE, "{}", control::causes::chain(&error)),
        }
        std::thread::yield_now();
    }
}
