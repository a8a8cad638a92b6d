//! What `handler test` prints for a person.

use std::fmt::Write as _;

use control_wire::trial::{Became, Event, Outcome, Shown, Tried};

/// Characters of a piece that are shown; `--json` gives all of them.
const TEXT_SHOWN: usize = 400;

/// What a person reads of a trial, with an answer or without.
pub(super) fn page(tried: &Tried, with_answer: bool) -> String {
    let mut out = String::new();
    write_outcome(&tried.outcome, &mut out);
    write_log(&tried.log, &mut out);
    for event in &tried.events {
        write_event(event, &mut out);
    }
    let forwarded = matches!(tried.outcome, Outcome::Forwarded { .. });
    let ended = tried.events.iter().any(|event| matches!(event.became, Became::Ended(_)));
    let saw_answer = tried.events.iter().any(|event| event.shown == Shown::AnswerHead);
    if tried.waits_for_answer {
        let _ = writeln!(out, "\nit is to be shown the answer: give one with --answer FILE");
    } else if with_answer && forwarded && !saw_answer && !ended {
        let _ = writeln!(out, "\nit is not shown the answer: it names no hook for that, or did not ask");
    }
    let _ = writeln!(
        out,
        "\n  fuel {} of {}, {} µs a call; the first took {} µs with instance and parameters",
        tried.fuel,
        tried.fuel_max,
        micros(tried.usual_nanos),
        tried.first_micros
    );
    out
}

fn write_outcome(outcome: &Outcome, out: &mut String) {
    let fields = |fields: &[(String, String)]| -> String {
        fields.iter().map(|(name, value)| format!("  {name}: {value}\n")).collect()
    };
    match outcome {
        Outcome::Forwarded { to, head, secrets, judged_again } => {
            let again = if *judged_again { ", after policy was asked again" } else { "" };
            let _ = writeln!(out, "forwarded to {to}{again}\n");
            for line in head.lines().filter(|line| !line.is_empty()) {
                // Its place is taken by the secret.
                let name = line.split(':').next().unwrap_or_default();
                let replaced = |(field, ..): &(String, String, String)| field.eq_ignore_ascii_case(name);
                if !secrets.iter().any(replaced) {
                    let _ = writeln!(out, "  {line}");
                }
            }
            for (field, prefix, secret) in secrets {
                let _ = writeln!(out, "  {field}: {prefix}‹secret {secret}›");
            }
        }
        Outcome::Refused { status, fields: sent, reason } => {
            let status = status.map_or("the policy's status".to_owned(), |status| status.to_string());
            let _ = write!(out, "refused with {status}: {reason}\n\n{}", fields(sent));
        }
        Outcome::Answered { status, fields: sent, body } => {
            let _ = write!(out, "answered with {status}, nothing is forwarded\n\n{}\n{body}\n", fields(sent));
        }
        Outcome::Failed { reason } => {
            let _ = writeln!(out, "failed: {reason}");
        }
    }
}

fn write_log(log: &[(String, String)], out: &mut String) {
    for (level, text) in log {
        let _ = writeln!(out, "\n  log {level}: {text}");
    }
}

fn write_event(event: &Event, out: &mut String) {
    let shown = match event.shown {
        Shown::RequestBody(bytes) => format!("{bytes} bytes of the request's body"),
        Shown::RequestEnd => "the request's body ends".to_owned(),
        Shown::AnswerHead => "the answer's head".to_owned(),
        Shown::AnswerBody(bytes) => format!("{bytes} bytes of the answer's body"),
        Shown::AnswerEnd => "the answer's body ends".to_owned(),
    };
    let _ = write!(out, "\n{shown}: ");
    match &event.became {
        Became::AsItIs => out.push_str("on as it is\n"),
        Became::Changed { bytes: 0, .. } => out.push_str("nothing goes on\n"),
        Became::Changed { bytes, text } => {
            let _ = writeln!(out, "{bytes} bytes go on");
            let cut: String = text.chars().take(TEXT_SHOWN).collect();
            write_lines(&cut, out);
            if cut.len() < text.len() {
                out.push_str("  …\n");
            }
        }
        Became::Head(head) => {
            out.push_str("the sandbox gets\n");
            write_lines(head.trim_end_matches("\r\n"), out);
        }
        Became::Ended(outcome) => {
            // The sandbox has a part by then.
            let cut = matches!(event.shown, Shown::AnswerBody(_) | Shown::AnswerEnd);
            out.push_str(if cut { "the answer is cut: " } else { "" });
            write_outcome(outcome, out);
        }
    }
    write_log(&event.log, out);
}

fn write_lines(text: &str, out: &mut String) {
    for line in text.lines() {
        let _ = writeln!(out, "  {line}");
    }
}

fn micros(nanos: u64) -> String {
    format!("{}.{}", nanos / 1000, nanos % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(outcome: Outcome, events: Vec<Event>) -> Tried {
        let log = vec![("info".into(), "hello".into())];
        let (first_micros, usual_nanos) = (50, 1_940);
        Tried {
            outcome,
            log,
            events,
            waits_for_answer: false,
            fuel: 12,
            fuel_max: 100,
            first_micros,
            usual_nanos,
        }
    }

    fn forwarded() -> Outcome {
        Outcome::Forwarded {
            to: "https://a.test".into(),
            head: "GET / HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer guess\r\n\r\n".into(),
            secrets: vec![("authorization".into(), "Bearer ".into(), "github".into())],
            judged_again: false,
        }
    }

    #[test]
    fn a_secret_is_shown_by_its_name_in_the_place_of_what_the_sandbox_sent() {
        let page = page(&tried(forwarded(), Vec::new()), false);
        assert!(
            page.contains("  authorization: Bearer ‹secret github›\n") && !page.contains("guess"),
            "{page}"
        );
        assert!(page.contains("log info: hello") && page.contains("fuel 12 of 100, 1.9 µs a call"), "{page}");
    }

    #[test]
    fn each_event_says_what_came_of_it_and_a_late_refusal_that_the_answer_is_cut() {
        let event = |shown, became| Event { shown, became, log: Vec::new(), fuel: 1 };
        let refused = || Outcome::Refused { status: Some(403), fields: Vec::new(), reason: "no".into() };
        let events = vec![
            event(Shown::RequestBody(3), Became::Changed { bytes: 1_000, text: "x".repeat(1_000) }),
            event(Shown::RequestEnd, Became::Changed { bytes: 0, text: String::new() }),
            event(Shown::AnswerHead, Became::Head("HTTP/1.1 203 \r\nA: b\r\n\r\n".into())),
            event(Shown::AnswerBody(7), Became::AsItIs),
            event(Shown::AnswerEnd, Became::Ended(refused())),
        ];
        let told = page(&tried(forwarded(), events), true);
        let shown =
            format!("\n3 bytes of the request's body: 1000 bytes go on\n  {}\n  …\n", "x".repeat(400));
        for part in [
            &*shown,
            "the request's body ends: nothing goes on\n",
            "the answer's head: the sandbox gets\n  HTTP/1.1 203 \n  A: b\n",
            "7 bytes of the answer's body: on as it is\n",
            "the answer's body ends: the answer is cut: refused with 403: no\n",
        ] {
            assert!(told.contains(part), "{part} is missing:\n{told}");
        }
        assert!(!told.contains("not shown the answer"), "{told}");
        let early = vec![event(Shown::RequestBody(3), Became::Ended(refused()))];
        let told = page(&tried(forwarded(), early), true);
        assert!(told.contains("body: refused with 403") && !told.contains("not shown"), "{told}");
        assert!(page(&tried(forwarded(), Vec::new()), true).contains("not shown the answer"));
        let waiting = Tried { waits_for_answer: true, ..tried(forwarded(), Vec::new()) };
        assert!(page(&waiting, false).contains("--answer FILE"));
    }
}
