//! `--ask`: while a request waits, the person at the terminal says whether it may go.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::{Client, ClientError, segment};
use crate::sandbox::Lender;

/// What of a question is shown.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Question {
    id: String,
    sandbox: String,
    method: String,
    scheme: String,
    host: String,
    port: u16,
    path: String,
    timeout_ms: u64,
}

/// What a person says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Once,
    Host,
    Deny,
}

/// Asks about this sandbox until the gateway ends, in a thread of its own. Who has no terminal is not asked; what waits
/// is then denied at the end of its time.
pub fn start(client: Client, sandbox: String, lender: Lender) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        // The gateway has ended, or there is no runtime: nothing waits any more, or will be denied in time.
        let _ended = runtime.map(|runtime| runtime.block_on(attend(&client, &sandbox, &lender)));
    });
}

async fn attend(client: &Client, sandbox: &str, lender: &Lender) -> Result<(), ClientError> {
    let (mut path, mut done) = ("/v1/questions".to_owned(), BTreeSet::new());
    loop {
        let reply = client.call("GET", &path, "").await?;
        let list: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        path = format!("/v1/questions?after={}&timeout=60s", list["version"]);
        let open: Vec<Question> = serde_json::from_value(list["questions"].clone()).unwrap_or_default();
        for question in open.into_iter().filter(|question| question.sandbox == sandbox) {
            if done.insert(question.id.clone()) {
                answer(client, lender, &question).await?;
            }
        }
    }
}

async fn answer(client: &Client, lender: &Lender, question: &Question) -> Result<(), ClientError> {
    let Some(terminal) = lender.borrow() else { return Ok(()) };
    // It was denied when its time was over, or there is nobody to ask.
    let Ok(Some(said)) = put(terminal.file(), question) else { return Ok(()) };
    let body = match said {
        Said::Once => json!({ "verdict": "allow", "scope": "once" }),
        Said::Host => json!({ "verdict": "allow", "scope": "host" }),
        Said::Deny => json!({ "verdict": "deny", "scope": "host" }),
    };
    // One that is kept is enforced before the next question can come.
    let call = format!("/v1/questions/{}?wait=applied", segment(&question.id));
    match client.call("POST", &call, body.to_string()).await {
        Err(ClientError::Refused { detail, .. }) => {
            // It was withdrawn, or its time was over: the person hears it.
            let _unheard = writeln!(&mut terminal.file(), "outgate: too late: {detail}");
            Ok(())
        }
        done => done.map(drop),
    }
}

/// Writes the question and reads until there is an answer, or none in time. The end of the input is a no.
fn put(mut terminal: &File, question: &Question) -> std::io::Result<Option<Said>> {
    let Question { method, scheme, host, port, path, .. } = question;
    let until = Instant::now() + Duration::from_millis(question.timeout_ms);
    let shown = visible(&format!("{method} {scheme}://{host}:{port}{}", shortened(path)));
    let host = visible(&format!("{host}:{port}"));
    let mut input = BufReader::new(terminal);
    loop {
        write!(
            terminal,
            "\noutgate: may the program send {shown}?\n[o]nce, this [h]ost ({host}) from now on, [d]eny: "
        )?;
        if input.buffer().is_empty() && !comes(terminal, until)? {
            writeln!(terminal, "\noutgate: nobody answered, so it was denied")?;
            return Ok(None);
        }
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(Some(Said::Deny));
        }
        if let Some(said) = understood(&line) {
            return Ok(Some(said));
        }
    }
}

/// Waits for a line, or the end of the time. Everything inside stands still meanwhile.
fn comes(terminal: &File, until: Instant) -> std::io::Result<bool> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(std::io::Error::other)?;
        match poll(&mut [PollFd::new(terminal, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}

fn understood(line: &str) -> Option<Said> {
    match line.trim().to_ascii_lowercase().as_str() {
        "o" | "once" => Some(Said::Once),
        "h" | "host" => Some(Said::Host),
        "d" | "deny" => Some(Said::Deny),
        _ => None,
    }
}

/// The program chooses the path: a long one must not push the host off the screen.
fn shortened(path: &str) -> String {
    match path.char_indices().nth(PATH_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &path[..end]),
        None => path.to_owned(),
    }
}

/// Characters of a path that are shown, somewhat more than a line.
const PATH_CHARS_MAX: usize = 100;

/// What a program wrote must not move the cursor, nor look like another question.
fn visible(text: &str) -> String {
    text.chars().map(|char| if char.is_ascii_graphic() || char == ' ' { char } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn only_a_whole_word_or_its_first_letter_is_an_answer() {
        assert_eq!(understood(" O\r"), Some(Said::Once));
        assert_eq!(understood("host"), Some(Said::Host));
        assert_eq!(understood("deny"), Some(Said::Deny));
        for line in ["", "y", "yes", "hostile", "onceh"] {
            assert_eq!(understood(line), None, "{line}");
        }
    }

    /// Asks at a line whose other end types this, and says what was shown too.
    fn asked(typed: &str, timeout_ms: u64, ends: bool) -> (Option<Said>, String) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(typed.as_bytes()).unwrap();
        if ends {
            theirs.shutdown(std::net::Shutdown::Write).unwrap();
        }
        let question = json!({ "id": "q", "sandbox": "run", "method": "GET", "scheme": "https", "host": "a.example", "port": 443,
                               "path": "/", "timeoutMs": timeout_ms });
        let terminal = File::from(OwnedFd::from(ours));
        let said = put(&terminal, &serde_json::from_value(question).unwrap()).unwrap();
        drop(terminal);
        let mut shown = String::new();
        theirs.read_to_string(&mut shown).unwrap();
        (said, shown)
    }

    #[test]
    fn a_question_is_asked_until_it_is_answered_or_its_time_is_over() {
        let (said, shown) = asked("what?\n\nonce\nhost\n", 20_000, false);
        assert_eq!(
            (said, shown.matches("may the program send GET https://a.example:443/?").count()),
            (Some(Said::Once), 3)
        );
        assert_eq!(asked("", 20_000, true).0, Some(Said::Deny));
        let (said, shown) = asked("", 1, false);
        assert!(said.is_none() && shown.ends_with("nobody answered, so it was denied\n"), "{shown}");
    }

    #[test]
    fn a_question_cannot_draw_on_the_terminal() {
        assert_eq!(visible("GET https://a/\x1b[2J\u{202e}\n"), "GET https://a/?[2J??");
    }
}
