//! Hellos as they come: in pieces, too large, none at all, and with names that could mislead.

use super::*;

#[test]
fn hello_is_read_over_one_byte_segments_and_the_handshake_goes_on() {
    let terminator = terminator();
    let config = trusting(&terminator);
    let (near, far) = Script::pair();
    near.segment(1);
    far.segment(1);
    let name = ServerName::try_from("api.example.com").unwrap();
    let (client, server) =
        block_on(zip(connect(near, name, &config), serve(far, "api.example.com", &terminator)));
    let (client, server) = (client.unwrap(), server.unwrap());
    let bytes = pattern(3_000);
    block_on(async {
        client.send(&bytes).await.unwrap();
        assert_eq!(receive_exactly(&server, bytes.len()).await, bytes);
    });
}

/// The first flight of a client as it leaves the socket.
fn first_flight(config: &Arc<ClientConfig>, name: &str) -> Vec<u8> {
    let (near, far) = Script::pair();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    block_on(async {
        assert!(poll_once(connect(near, name, config)).await.is_none());
        far.receive().await.unwrap().unwrap()
    })
}

#[test]
fn hello_is_read_over_several_records() {
    let terminator = terminator();
    let flight =
        first_flight(&stranger(&terminator, &[b"h2", b"http/1.1"], rustls::ALL_VERSIONS), "API.example.com");
    let (head, message) = flight.split_at(5);
    let mut records = Vec::new();
    for part in message.chunks(7) {
        records.extend_from_slice(&head[..3]);
        records.extend_from_slice(&(part.len() as u16).to_be_bytes());
        records.extend_from_slice(part);
    }
    for segment in [1, 11, records.len()] {
        let mut reader = HelloReader::default();
        let mut found = None;
        for bytes in records.chunks(segment) {
            assert_eq!(found, None);
            found = reader.feed(bytes).unwrap();
        }
        let hello = found.unwrap();
        assert_eq!(hello.server_name.as_deref(), Some("api.example.com"));
        assert_eq!(hello.protocol(), Some(Protocol::Http2));
        assert_eq!(reader.into_bytes(), records);
    }

    // The handshake itself takes the same records.
    let (near, far) = Script::pair();
    let accepted = block_on(async {
        near.send(&records).await.unwrap();
        let (hello, replay) = read_hello(&far, b"").await.unwrap();
        let name = CertName::parse("api.example.com").unwrap();
        // No answer comes, but the server's flight does: the hello was understood.
        let pending = poll_once(accept(far, &hello, replay, &name, &terminator)).await.is_none();
        pending && near.receive().await.unwrap().unwrap()[0] == 0x16
    });
    assert!(accepted);
}

#[test]
fn an_address_in_a_hello_is_no_server_name() {
    let terminator = terminator();
    let flight = first_flight(&trusting(&terminator), "192.0.2.7");
    let hello = HelloReader::default().feed(&flight).unwrap().unwrap();
    assert_eq!(hello.server_name, None);
}

#[test]
fn oversize_hello_is_refused_before_it_is_complete() {
    let mut reader = HelloReader::default();
    // A handshake record that announces a hello of 60,000 bytes, and then more such records.
    let mut record = vec![0x16, 3, 1, 0x20, 0x00];
    record.resize(5 + 0x2000, 0);
    record[5..9].copy_from_slice(&[1, 0, 0xea, 0x60]);
    assert!(matches!(reader.feed(&record), Ok(None)));
    record[5..9].fill(0);
    assert!(matches!(reader.feed(&record), Err(TlsError::HelloTooLong { bytes_max: HELLO_BYTES_MAX })));
}

#[test]
fn what_is_not_a_hello_is_refused_with_an_alert_and_never_panics() {
    for bytes in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", b"\x80\x2e\x01\x03\x01\x00"]
    {
        let (near, far) = Script::pair();
        block_on(async {
            near.send(bytes).await.unwrap();
            near.shutdown_write().unwrap();
            let refused = read_hello(&far, b"").await;
            assert!(matches!(refused, Err(TlsError::NotHello(_) | TlsError::Truncated)), "{bytes:?}");
        });
    }
    // Every truncation and many mutations of a true hello.
    let terminator = terminator();
    let flight = first_flight(&trusting(&terminator), "api.example.com");
    for index in 0..flight.len() {
        assert!(matches!(HelloReader::default().feed(&flight[..index]), Ok(None)));
        let mut mutated = flight.clone();
        mutated[index] ^= 0xa5;
        let _ = HelloReader::default().feed(&mutated);
        let (near, far) = Script::pair();
        block_on(async {
            near.send(&mutated).await.unwrap();
            drop(near);
            let _ = serve(far, "api.example.com", &terminator).await;
        });
    }
}

#[test]
fn a_hello_that_could_hide_another_name_is_recognised_and_a_torn_one_counts_as_such() {
    let config = UpstreamTls::new(roots(terminator().issuer())).unwrap().system().clone();
    let name = rustls::pki_types::ServerName::try_from("a.test").unwrap();
    let mut client = rustls::ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    assert!(!super::hides_a_name(&hello));
    assert!(super::hides_a_name(&hello[..hello.len() - 1]), "torn");
    // The same message over two records.
    let (first, second) = hello[5..].split_at(100);
    let record =
        |part: &[u8]| [&[22, 3, 1], &u16::try_from(part.len()).unwrap().to_be_bytes()[..], part].concat();
    assert!(!super::hides_a_name(&[record(first), record(second)].concat()));
    // One more extension at the end, and the three lengths around it.
    let mut message = hello[5..].to_vec();
    let body = message.len() - 4;
    message.extend_from_slice(&[0xfe, 0x0d, 0, 1, 7]);
    message[1..4].copy_from_slice(&u32::try_from(body + 5).unwrap().to_be_bytes()[1..]);
    let session = usize::from(message[38]);
    let suites = 39 + session;
    let suites_length = usize::from(u16::from_be_bytes([message[suites], message[suites + 1]]));
    let compressions = suites + 2 + suites_length;
    let extensions = compressions + 1 + usize::from(message[compressions]);
    let length = u16::from_be_bytes([message[extensions], message[extensions + 1]]) + 5;
    message[extensions..extensions + 2].copy_from_slice(&length.to_be_bytes());
    assert!(super::hides_a_name(&record(&message)));
}
