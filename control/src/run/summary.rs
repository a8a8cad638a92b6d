//! The table that a run ends with, and the words for what was refused.

use std::fmt::Write as _;
use std::time::Duration;

use super::tally::{Host, Record, Tally};

const HEADINGS: [&str; 7] = ["HOST", "REQUESTS", "ALLOWED", "REFUSED", "UP", "DOWN", "BY"];

/// The table.
pub fn table(tally: &Tally, took: Duration) -> String {
    let (requests, hosts) = (tally.requests(), tally.hosts.len());
    let mut text = format!(
        "outgate: {requests} {} to {hosts} {} in {:.1} s\n",
        if requests == 1 { "request" } else { "requests" },
        if hosts == 1 { "host" } else { "hosts" },
        took.as_secs_f64()
    );
    if requests == 0 {
        return text;
    }
    let rows: Vec<[String; 7]> = std::iter::once(HEADINGS.map(str::to_owned))
        .chain(tally.hosts.iter().map(|(place, host)| row(place, host)))
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEADINGS.len()).map(width).collect();
    text.push('\n');
    for row in &rows {
        // Names to the left, figures to the right, the last column as long as it is.
        let _written = write!(text, "  {:<width$}", row[0], width = widths[0]);
        for column in 1..HEADINGS.len() - 1 {
            let _written = write!(text, "  {:>width$}", row[column], width = widths[column]);
        }
        let _written = writeln!(text, "  {}", row[HEADINGS.len() - 1]);
    }
    text
}

fn row(place: &str, host: &Host) -> [String; 7] {
    let some = |count: u64| if count == 0 { "–".to_owned() } else { count.to_string() };
    let mut by: Vec<String> = host.by.iter().cloned().collect();
    by.extend(host.secrets.iter().map(|secret| format!("secret {secret}")));
    if host.failed > 0 {
        by.push(format!("{} failed", host.failed));
    }
    [
        place.to_owned(),
        (host.allowed + host.refused + host.failed).to_string(),
        some(host.allowed),
        some(host.refused),
        size(host.bytes_up),
        size(host.bytes_down),
        by.join(", "),
    ]
}

/// Bytes as people read them.
fn size(bytes: u64) -> String {
    match bytes {
        0 => "–".into(),
        1..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// What to add to allow what was refused; empty where nothing would.
pub fn remedies(tally: &Tally) -> String {
    if tally.remedies.is_empty() {
        return String::new();
    }
    let options: Vec<&str> = tally.remedies.iter().map(String::as_str).collect();
    format!("\nTo allow what was refused:  {}\n", options.join(" "))
}

/// The least policy under which everything that was reached could have been.
pub fn least(tally: &Tally) -> String {
    let reached: Vec<&str> = tally.reached().collect();
    if reached.is_empty() {
        return "\nNothing was reached, so no policy is needed.\n".into();
    }
    let options: Vec<String> = reached.iter().map(|host| format!("--allow {host}")).collect();
    let hosts: Vec<String> = reached.iter().map(|host| format!("{host:?}")).collect();
    format!(
        "\nThe least policy for this:  {}\nor in a file:  allowedHosts = [{}]\n",
        options.join(" "),
        hosts.join(", ")
    )
}

/// One refusal, in lines for a person.
pub fn refusal(record: &Record) -> String {
    let what = match (&record.method, record.place()) {
        (Some(method), Some(place)) => {
            let scheme = record.scheme.as_deref().unwrap_or("https");
            format!("{method} {scheme}://{place}{}", record.path.as_deref().unwrap_or("/"))
        }
        (_, Some(place)) => place,
        _ => "a connection without a request".into(),
    };
    let code = record.code.as_deref().unwrap_or("refused");
    let mut text = format!("{what}\n  {code}");
    if let Some(rule) = &record.rule {
        let _written = write!(text, ", by {rule}");
    }
    if let Some(reason) = &record.reason {
        let _written = write!(text, "\n  {reason}");
    }
    if let Some(remedy) = record.remedy() {
        let _written = write!(text, "\n  to allow it: {remedy}");
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally() -> Tally {
        Tally::of(
            r#"{"method":"GET","scheme":"https","host":"api.example","port":443,"verdict":"allowed","rule":"allowedHosts: api.example","secrets":["token"],"bytesDown":33000}
{"method":"POST","scheme":"https","host":"evil.example","port":443,"path":"/steal","verdict":"refused","code":"host_not_allowed","rule":"allowedHosts","reason":"evil.example: is not on the allow list"}"#,
        )
    }

    #[test]
    fn the_table_is_read_in_columns() {
        let text = table(&tally(), Duration::from_millis(1_250));
        assert_eq!(
            text,
            "outgate: 2 requests to 2 hosts in 1.2 s\n\n  \
             HOST          REQUESTS  ALLOWED  REFUSED  UP     DOWN  BY\n  \
             api.example          1        1        –   –  33.0 kB  allowedHosts: api.example, secret token\n  \
             evil.example         1        –        1   –        –  allowedHosts\n"
        );
        assert_eq!(table(&Tally::default(), Duration::ZERO), "outgate: 0 requests to 0 hosts in 0.0 s\n");
    }

    #[test]
    fn what_would_allow_it_can_be_pasted() {
        assert_eq!(remedies(&tally()), "\nTo allow what was refused:  --allow evil.example\n");
        assert_eq!(
            least(&tally()),
            "\nThe least policy for this:  --allow api.example\nor in a file:  allowedHosts = [\"api.example\"]\n"
        );
    }

    #[test]
    fn a_refusal_says_what_why_and_what_to_do() {
        assert_eq!(
            refusal(&tally().refusals[0]),
            "POST https://evil.example/steal\n  host_not_allowed, by allowedHosts\n  \
             evil.example: is not on the allow list\n  to allow it: --allow evil.example\n"
        );
    }
}
