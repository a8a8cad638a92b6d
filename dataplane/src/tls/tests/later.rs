//! What a peer sends behind the handshake, and what then counts as quiet.

use super::*;

/// A server that says what it is told to say, when it is told.
struct Scripted<S: Socket> {
    end: S,
    connection: rustls::ServerConnection,
}

impl<S: Socket> Scripted<S> {
    /// Completes a handshake; the ticket that would follow at once waits for [`Scripted::flush`].
    async fn accept(end: S, terminator: &Terminator) -> Self {
        let name = CertName::parse("api.example.com").unwrap();
        let settings = terminator.settings(&name, Some(Protocol::Http11), SystemTime::now()).unwrap();
        let mut this = Self { end, connection: rustls::ServerConnection::new(settings).unwrap() };
        while this.connection.is_handshaking() {
            this.flush().await;
            this.read().await;
        }
        this
    }

    async fn flush(&mut self) {
        let mut bytes = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut bytes).unwrap();
        }
        self.end.send(&bytes).await.unwrap();
    }

    async fn read(&mut self) -> Vec<u8> {
        let bytes = self.end.receive().await.unwrap().unwrap();
        let mut bytes = &*bytes;
        while !bytes.is_empty() {
            self.connection.read_tls(&mut bytes).unwrap();
            self.connection.process_new_packets().unwrap();
        }
        let mut plain = vec![0; 1024];
        let count = std::io::Read::read(&mut self.connection.reader(), &mut plain).unwrap_or(0);
        plain.truncate(count);
        plain
    }

    async fn say(&mut self, bytes: &[u8]) {
        std::io::Write::write_all(&mut self.connection.writer(), bytes).unwrap();
        self.flush().await;
    }
}

async fn scripted<S: Socket>(near: S, far: S) -> (TlsStream<S>, Scripted<S>) {
    let terminator = terminator();
    let config = trusting(&terminator);
    let name = ServerName::try_from("api.example.com").unwrap();
    let (client, server) = zip(connect(near, name, &config), Scripted::accept(far, &terminator)).await;
    (client.unwrap(), server)
}

/// Servers send tickets when they like. One that came after a connection was put into the pool made it look as if
/// an answer had come unasked, and the connection was thrown away.
#[test]
fn tickets_and_key_updates_that_come_late_leave_a_connection_quiet() {
    block_on(async {
        let (near, far) = Script::pair();
        let (client, mut server) = scripted(near, far).await;
        assert!(client.is_quiet() && server.connection.wants_write());
        server.flush().await;
        assert!(!client.socket().is_quiet(), "the ticket is there");
        assert!(client.is_quiet());
        server.connection.refresh_traffic_keys().unwrap();
        server.flush().await;
        assert!(!client.socket().is_quiet(), "the key update is there");
        assert!(client.is_quiet());
        client.send(b"ask").await.unwrap();
        assert_eq!(server.read().await, b"ask");
        server.say(b"answer").await;
        assert_eq!(receive_exactly(&client, 6).await, b"answer");
        assert!(client.is_quiet());
        server.connection.refresh_traffic_keys().unwrap();
        server.say(b"unasked").await;
        assert!(!client.is_quiet() && !client.is_quiet(), "bytes are bytes, whatever came with them");
        assert_eq!(receive_exactly(&client, 7).await, b"unasked");
        assert!(client.is_quiet());
    });
}

#[test]
fn an_end_of_any_kind_is_not_quiet() {
    block_on(async {
        let (near, far) = Script::pair();
        let (client, mut server) = scripted(near, far).await;
        assert!(client.is_quiet());
        server.connection.send_close_notify();
        server.flush().await;
        assert!(!client.is_quiet() && !client.is_quiet(), "close_notify behind a ticket");
        let (near, far) = Script::pair();
        let (client, server) = scripted(near, far).await;
        drop(server);
        assert!(!client.is_quiet() && !client.is_quiet(), "FIN");
        let (near, far) = Script::pair();
        let (client, server) = scripted(near, far).await;
        server.end.send(b"\x17\x03\x03\x00\x20forged-forged-forged-forged-1234").await.unwrap();
        assert!(!client.is_quiet() && !client.is_quiet(), "a record that nobody of them made");
        let (near, far) = Script::pair();
        let (client, server) = scripted(near, far).await;
        server.end.send(b"\x17\x03").await.unwrap();
        assert!(!client.is_quiet(), "half a record may be anything");
    });
}

#[test]
fn an_idle_connection_to_which_a_ticket_came_holds_no_buffer() {
    on_shard(|| async {
        let ring = crate::ring::Ring::current();
        let (near, far) = pair().await;
        let (client, mut server) = scripted(near, far).await;
        client.arm();
        assert!(client.is_quiet());
        server.flush().await;
        while client.socket().is_quiet() {
            crate::ring::yield_now().await;
        }
        assert_eq!(ring.stats().head_buffers_out, 1);
        assert!(client.is_quiet());
        assert_eq!(ring.stats().head_buffers_out, 0);
        assert!(client.socket().is_quiet(), "it listens on");
        server.end.shutdown_write().unwrap();
        while client.socket().is_quiet() {
            crate::ring::yield_now().await;
        }
        assert!(!client.is_quiet());
    });
}

#[test]
fn a_forged_record_ends_the_connection() {
    let terminator = terminator();
    let (client, server) = joined(&terminator, &trusting(&terminator), "api.example.com");
    block_on(async {
        client.socket().send(b"\x17\x03\x03\x00\x20forged-forged-forged-forged-1234").await.unwrap();
        let error = server.receive().await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        assert!(server.send(b"x").await.is_err());
    });
}
