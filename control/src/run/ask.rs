//! `--ask`: while a request waits, the person at the terminal says whether it may go.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::{Client, ClientError, segment};
use crate::sandbox::Lender;

/// What of a question is shown.
#[derive(Debug, Deserialize)]
struct Question {
    id: String,
    sandbox: String,
    method: String,
    scheme: String,
    host: String,
    port: u16,
    path: String,
}

/// What a person says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Once,
    Host,
    Deny,
}

/// Asks about this sandbox until the gateway ends, in a thread of its own. Who has no terminal is not asked; what waits is then denied at
/// the end of its time.
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
    let Ok(said) = put(terminal.file(), question) else { return Ok(()) };
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

/// Writes the question and reads until there is an answer. The end of the input is a no.
fn put(mut terminal: &File, question: &Question) -> std::io::Result<Said> {
    let Question { method, scheme, host, port, path, .. } = question;
    let shown = visible(&format!("{method} {scheme}://{host}:{port}{path}"));
    let mut lines = BufReader::new(terminal).lines();
    loop {
        write!(
            terminal,
            "\noutgate: may the program send {shown}?\n[o]nce, this [h]ost from now on, [d]eny: "
        )?;
        match lines.next().transpose()? {
            None => return Ok(Said::Deny),
            Some(line) => {
                if let Some(said) = understood(&line) {
                    return Ok(said);
                }
            }
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

/// What a program wrote must not move the cursor, nor look like another question.
fn visible(text: &str) -> String {
    text.chars().map(|char| if char.is_ascii_graphic() || char == ' ' { char } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_question_cannot_draw_on_the_terminal() {
        assert_eq!(visible("GET https://a/\x1b[2J\u{202e}\n"), "GET https://a/?[2J??");
    }
}
