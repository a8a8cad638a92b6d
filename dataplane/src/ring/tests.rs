//! What a ring promises, on real sockets.

use super::testing::*;

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
