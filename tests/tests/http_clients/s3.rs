//! botocore, the client under every AWS tool of Python, against a scripted store that wants path-style addresses.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    sync::Mutex,
};

use tests::{
    origin::{Origin, Seen},
    yard::{Yard, said},
};

use crate::{
    python::bring,
    trial::{Way, answer, assert_not_held, assert_summary_tells, laid_open, told},
};

/// Signs with credentials that mean nothing, puts an object, reads it and lists the bucket.
const SCRIPT: &str = "
import botocore.config, botocore.exceptions, botocore.session, sys
client = botocore.session.get_session().create_client(
    's3', region_name='nowhere-1', endpoint_url=sys.argv[1],
    aws_access_key_id='AKIADUMMY', aws_secret_access_key='dummy',
    config=botocore.config.Config(s3={'addressing_style': 'path'}))
try:
    client.put_object(Bucket='bucket', Key='a/key', Body=b'what was put')
    print(client.get_object(Bucket='bucket', Key='a/key')['Body'].read().decode())
    print([found['Key'] for found in client.list_objects_v2(Bucket='bucket')['Contents']])
except botocore.exceptions.ClientError as error:
    print(error)
";

type Objects = Mutex<BTreeMap<String, Vec<u8>>>;

/// A store for whoever signs with the dummy's name and, where it is asked for, shows the credential.
fn store(wanted: Option<Way>) -> Origin {
    let objects = Objects::default();
    Origin::tls(&["origin.test"], move |seen, out| {
        let signed = seen.fields("authorization").any(|value| {
            value.starts_with("AWS4-HMAC-SHA256 Credential=AKIADUMMY/") && value.contains("Signature=")
        });
        if !signed || wanted.is_some_and(|way| !way.is_shown(seen)) {
            let body = "<Error><Code>AccessDenied</Code><Message>who are you?</Message></Error>";
            return answer(out, "401 Unauthorized", "application/xml", body);
        }
        serve(&objects, seen, out)
    })
}

fn serve(objects: &Objects, seen: &Seen, out: &mut dyn Write) -> io::Result<()> {
    let mut objects = objects.lock().expect("no other request panicked");
    let mut words = seen.line().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    match (method, target.strip_prefix("/bucket/")) {
        ("PUT", Some(key)) => {
            objects.insert(key.to_owned(), whole(&seen.body).expect("pieces as AWS wants them"));
            answer(out, "200 OK", "application/xml", "")
        }
        ("GET", Some(key)) if objects.contains_key(key) => {
            answer(out, "200 OK", "application/octet-stream", &String::from_utf8_lossy(&objects[key]))
        }
        ("GET", None) if target.starts_with("/bucket?list-type=2") => {
            let keys = objects.keys().map(|key| format!("<Contents><Key>{key}</Key></Contents>"));
            let body = format!("<ListBucketResult>{}</ListBucketResult>", keys.collect::<String>());
            answer(out, "200 OK", "application/xml", &body)
        }
        _ => answer(out, "404 Not Found", "application/xml", "<Error><Code>NoSuchKey</Code></Error>"),
    }
}

/// Puts a body together that comes as `aws-chunked`: pieces after their lengths, then a checksum as a trailer.
fn whole(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|two| two == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&body[..end]).ok()?, 16).ok()?;
        if length == 0 {
            return Some(whole);
        }
        let piece = end + 2..end + 2 + length;
        whole.extend_from_slice(body.get(piece.clone())?);
        body = body.get(piece.end + 2..)?;
    }
}

fn client(yard: &Yard, host: &str) -> [String; 4] {
    bring(yard);
    let endpoint = format!("https://{host}:{}", yard.origin.address.port());
    ["python-clients/bin/python3".into(), "-c".into(), SCRIPT.into(), endpoint]
}

#[test]
fn botocore_puts_gets_and_lists_and_what_is_refused_is_in_the_summary() {
    let yard = Yard::of(store(None));
    let told = |host: &str| told(&yard, &client(&yard, host).each_ref().map(String::as_str));
    let (out, err) = told("origin.test");
    assert_eq!(out, "what was put\n['a/key']\n", "{err}");
    let seen = yard.origin.seen();
    assert_eq!(seen.len(), 3);

    // It keeps the status alone of a body that is no XML, so the summary and `why` tell the rest.
    let (out, err) = told("denied.test");
    assert!(out.contains("(403)") && out.contains("Forbidden"), "{out}{err}");
    assert_summary_tells(&yard, &err);
    assert_eq!(yard.origin.seen().len(), seen.len(), "the store saw what was refused");
}

#[test]
fn botocore_reaches_a_store_by_a_credential_that_it_never_holds() {
    let yard = Yard::of(store(Some(Way::Header)));
    let words = client(&yard, "origin.test");
    let words = words.each_ref().map(String::as_str);
    let (out, err) = told(&yard, &words);
    assert!(out.contains("AccessDenied"), "{out}{err}");
    let (out, err) = said(&laid_open(&yard, Way::Header, &words).output().expect("outgate starts"));
    assert!(out.starts_with("what was put\n['a/key']\n"), "{out}{err}");
    assert_not_held(Way::Header, &format!("{out}{err}"));
}
