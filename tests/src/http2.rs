//! Programs of a sandbox that speak HTTP/2 in a tunnel through the explicit proxy, and origins that do.

use std::{net::TcpListener, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use rustls::{ServerConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{
    client,
    counting::exclude_this_thread,
    gateway::{Gateway, PATIENCE},
    origin::Origin,
};

/// What an origin of HTTP/2 answers through.
pub type Answer = h2::server::SendResponse<Bytes>;

/// An origin over TLS that speaks HTTP/2 alone, a task for each request, until the test process ends.
///
/// # Panics
/// When loopback cannot be bound or a name is not one.
pub fn origin<F: Future<Output = Option<()>> + 'static>(
    names: &[&str],
    script: impl Fn(Request<RecvStream>, Answer) -> F + Send + Sync + 'static,
) -> Origin {
    origin_with(h2::server::Builder::new(), names, script)
}

/// The same with settings of the test's own.
///
/// # Panics
/// As [`origin`].
pub fn origin_with<F: Future<Output = Option<()>> + 'static>(
    settings: h2::server::Builder,
    names: &[&str],
    script: impl Fn(Request<RecvStream>, Answer) -> F + Send + Sync + 'static,
) -> Origin {
    let (origin, listener, config, count) = Origin::apart(names);
    serve((listener, count), config, settings, script);
    origin
}

/// The same with TLS of the test's own, for clients that trust this root.
///
/// # Panics
/// As [`origin`].
pub fn origin_of<F: Future<Output = Option<()>> + 'static>(
    config: ServerConfig,
    root_pem: String,
    script: impl Fn(Request<RecvStream>, Answer) -> F + Send + Sync + 'static,
) -> Origin {
    let (mut origin, listener, _, count) = Origin::apart(&["origin.test"]);
    origin.root_pem = root_pem;
    serve((listener, count), config, h2::server::Builder::new(), script);
    origin
}

fn serve<F: Future<Output = Option<()>> + 'static>(
    (listener, count): (TcpListener, impl Fn() + Send + 'static),
    mut config: ServerConfig,
    settings: h2::server::Builder,
    script: impl Fn(Request<RecvStream>, Answer) -> F + Send + Sync + 'static,
) {
    config.alpn_protocols = vec![b"h2".to_vec()];
    std::thread::spawn(move || {
        exclude_this_thread();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let script = Arc::new(script);
        runtime.block_on(tokio::task::LocalSet::new().run_until(async move {
            listener.set_nonblocking(true).expect("an option");
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
            let acceptor = TlsAcceptor::from(Arc::new(config));
            while let Ok((socket, _)) = listener.accept().await {
                count();
                let (acceptor, settings, script) = (acceptor.clone(), settings.clone(), Arc::clone(&script));
                tokio::task::spawn_local(async move {
                    let tls = acceptor.accept(socket).await.ok()?;
                    let mut connection = settings.handshake(tls).await.ok()?;
                    while let Some(Ok((request, answer))) = connection.accept().await {
                        tokio::task::spawn_local(script(request, answer));
                    }
                    Some(())
                });
            }
        }));
    });
}

/// Answers with a body, and trailers where there are some.
pub fn respond(answer: &mut Answer, body: impl Into<Bytes>, trailers: Option<HeaderMap>) -> Option<()> {
    let body = body.into();
    let head = Response::builder().header("content-length", body.len()).body(()).ok()?;
    let mut stream = answer.send_response(head, false).ok()?;
    stream.send_data(body, trailers.is_none()).ok()?;
    trailers.map_or(Some(()), |trailers| stream.send_trailers(trailers).ok())
}

/// Takes a body to its end, with what follows it.
pub async fn read(stream: &mut RecvStream) -> Option<(Vec<u8>, Option<HeaderMap>)> {
    let mut body = Vec::new();
    while let Some(data) = next(stream).await {
        body.extend_from_slice(&data.ok()?);
    }
    Some((body, stream.trailers().await.ok()?))
}

/// A connection on which requests can be sent.
pub struct Client {
    /// Opens streams.
    pub requests: SendRequest<Bytes>,
    /// Scheme, host and port of what is asked for.
    pub origin: String,
}

/// A whole answer.
#[derive(Debug)]
pub struct Whole {
    /// Head.
    pub head: Response<()>,
    /// Payload.
    pub body: Vec<u8>,
    /// Fields behind it.
    pub trailers: Option<HeaderMap>,
}

impl Whole {
    /// The payload as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Runs a test's futures, for at most the harness's patience.
///
/// # Panics
/// When the time is over.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    run_for(PATIENCE, test)
}

/// The same for one that has much to do.
///
/// # Panics
/// When the time is over.
pub fn run_for<T>(time: Duration, test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(
        tokio::task::LocalSet::new()
            .run_until(async { tokio::time::timeout(time, test).await.expect("the test ends in time") }),
    )
}

impl Client {
    /// Asks for a tunnel to `host:port` and speaks HTTP/2 over TLS in it.
    ///
    /// # Panics
    /// When the gateway does not.
    pub async fn connect(gateway: &Gateway, host: &str, port: u16) -> Self {
        Self::with(h2::client::Builder::new(), gateway, host, port).await
    }

    /// The same with settings of the test's own.
    ///
    /// # Panics
    /// When the gateway does not.
    pub async fn with(settings: h2::client::Builder, gateway: &Gateway, host: &str, port: u16) -> Self {
        let tunnel = gateway.tunnel(host, port);
        Self::on(tunnel, settings, gateway.authority("box"), (host, port)).await
    }

    /// Speaks HTTP/2 over TLS on this socket with whoever has a certificate for the host by this authority (DER).
    ///
    /// # Panics
    /// When the other end does not.
    pub async fn on(
        socket: std::net::TcpStream,
        settings: h2::client::Builder,
        authority: &[u8],
        (host, port): (&str, u16),
    ) -> Self {
        let connector = TlsConnector::from(Arc::new(client::settings(authority, &[b"h2"])));
        let name = ServerName::try_from(host.to_owned()).expect("a name");
        let tunnel = connector.connect(name, asynchronous(socket)).await.expect("TLS");
        assert_eq!(tunnel.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        Self::over(settings, tunnel, format!("https://{host}:{port}")).await
    }

    /// The same without TLS, as one who knows already that HTTP/2 is spoken (RFC 9113 §3.3).
    ///
    /// # Panics
    /// When the gateway does not.
    pub async fn plain(gateway: &Gateway, host: &str, port: u16) -> Self {
        let settings = h2::client::Builder::new();
        Self::over(settings, asynchronous(gateway.tunnel(host, port)), format!("http://{host}:{port}")).await
    }

    async fn over(
        settings: h2::client::Builder,
        wire: impl AsyncRead + AsyncWrite + Unpin + 'static,
        origin: String,
    ) -> Self {
        let (requests, connection) = settings.handshake(wire).await.expect("settings");
        // It ends with the test; what breaks it is seen on its streams.
        tokio::task::spawn_local(async move { drop(connection.await) });
        Self { requests, origin }
    }

    /// A request to a path of the origin.
    ///
    /// # Panics
    /// When the path is none.
    pub fn request(&self, method: &str, path: &str) -> Request<()> {
        Request::builder().method(method).uri(format!("{}{path}", self.origin)).body(()).expect("a request")
    }

    /// Opens a stream.
    ///
    /// # Panics
    /// When the connection takes none.
    pub async fn send(&mut self, request: Request<()>, ended: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let mut ready = self.requests.clone().ready().await.expect("room for a stream");
        ready.send_request(request, ended).expect("a stream")
    }

    /// Asks for a path without a body, and takes the whole answer.
    ///
    /// # Panics
    /// When there is none.
    pub async fn get(&mut self, path: &str) -> Whole {
        let (answer, _) = self.send(self.request("GET", path), true).await;
        whole(answer).await.expect("a whole answer")
    }
}

fn asynchronous(socket: std::net::TcpStream) -> TcpStream {
    socket.set_nonblocking(true).expect("an option");
    TcpStream::from_std(socket).expect("a socket")
}

/// Takes an answer to its end.
///
/// # Errors
/// The stream or connection broke.
pub async fn whole(answer: ResponseFuture) -> Result<Whole, h2::Error> {
    let (head, mut stream) = answer.await?.into_parts();
    let mut body = Vec::new();
    while let Some(data) = next(&mut stream).await {
        body.extend_from_slice(&data?);
    }
    Ok(Whole { head: Response::from_parts(head, ()), body, trailers: stream.trailers().await? })
}

/// The next payload, whose room is given back at once. Frames without any are none.
pub async fn next(stream: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    loop {
        let data = stream.data().await?;
        if let Ok(data) = &data {
            let _ended = stream.flow_control().release_capacity(data.len());
        }
        if !data.as_ref().is_ok_and(Bytes::is_empty) {
            return Some(data);
        }
    }
}
