//! Runs one handler on one request, for its author: the plane's own loading, host, budgets and edits, and no network.

mod events;

use std::{
    cell::RefCell,
    io::{self, Read},
    process::ExitCode,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use control_wire::{
    limits::{ENVELOPE_BYTES_MAX, TRIAL_BODY_BYTES_MAX},
    policy::OnError,
    trial::{Event, Outcome, Trial, Tried},
};
use data_encoding::{BASE64, DecodeError, HEXLOWER_PERMISSIVE};
use handlers_sdk_abi::code::BodyUse;

use crate::{
    audit::LogLine,
    causes::chain,
    flow::{
        guest::{Consulted, GuestError, Shown, Verdict, consult},
        hooked::{Hooked, Seen, Way},
    },
    handler::{Budget, Host, HostConfig, LoadError, Room, VerifyingKey, Watchdog, load, target},
    http::{
        Authority, AuthorityError, ConnectionFacts, EditError, FieldName, FieldValue, OutgoingRequest,
        Parsed, RequestHead, Scheme, authority_of, parse_request,
    },
    limits::{HANDLER_KEPT_SANDBOX_BYTES_MAX, HANDLER_TIME, TRIAL_CALLS_MAX},
    policy::{DENY_STATUS, HandlerUse},
};
use events::Exchange;

/// Why a handler could not be tried. How it fails by itself is an [`Outcome`].
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// What was asked cannot be read.
    #[error("the trial cannot be read; start it by `outgate handler test`")]
    Read(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The module is not taken.
    #[error("a plane does not take this module")]
    Load(#[from] LoadError),
    /// The request is none that a plane takes.
    #[error("a plane refuses this request before any handler sees it: {0}")]
    Request(String),
    /// The answer is none that a plane takes.
    #[error("a plane takes this for no answer: {0}")]
    Answer(String),
    /// It names no host.
    #[error("the request is for nobody; give its host with --host")]
    Authority(#[from] AuthorityError),
    /// The machine refuses what a host needs.
    #[error("no handlers can be run here")]
    Host(#[source] io::Error),
    /// The head that goes on is none.
    #[error("the head cannot be written")]
    Write(#[from] EditError),
}

/// Reads a trial from standard input and writes what came of it to standard output.
pub fn main() -> ExitCode {
    match read().and_then(|trial| run(&trial)) {
        Ok(tried) => {
            println!("{}", serde_json::json!(tried));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn read() -> Result<Trial, TrialError> {
    // In base64 an envelope is a third longer, and so are the two bodies.
    let bytes_max = 2 * (ENVELOPE_BYTES_MAX + 2 * TRIAL_BODY_BYTES_MAX) as u64;
    let mut text = String::new();
    io::stdin()
        .lock()
        .take(bytes_max)
        .read_to_string(&mut text)
        .map_err(|error| TrialError::Read(error.into()))?;
    serde_json::from_str(&text).map_err(|error| TrialError::Read(error.into()))
}

/// Loads the handler and runs it, first for its outcome and then for its time.
///
/// # Errors
/// When the module, the request or the answer is one that no plane takes.
pub fn run(trial: &Trial) -> Result<Tried, TrialError> {
    let unreadable = |error: DecodeError| TrialError::Read(error.into());
    let key = HEXLOWER_PERMISSIVE.decode(trial.key.as_bytes()).map_err(unreadable)?;
    let key = key.try_into().map_err(|_| TrialError::Read("the key has another length".into()))?;
    let loaded = load(&decoded(&trial.envelope)?, &VerifyingKey(key), &target())?;
    let watchdog = Watchdog::start(HANDLER_TIME).map_err(TrialError::Host)?;
    let config = HostConfig::default();
    let guests = Rc::new(RefCell::new(Host::new(config, &watchdog).map_err(TrialError::Host)?));

    let head = match parse_request(trial.head.as_bytes()) {
        Ok(Parsed::Complete { head, .. }) => head,
        Ok(Parsed::Partial) => return Err(TrialError::Request("its head has no end".into())),
        Err(fault) => return Err(TrialError::Request(chain(&fault))),
    };
    let authority = authority(trial, &head)?;
    let params = serde_json::to_vec(&trial.params).map_err(|error| TrialError::Read(error.into()))?;
    let (room, budget) = (Room::new("the sandbox", HANDLER_KEPT_SANDBOX_BYTES_MAX), Rc::<Budget>::default());
    let shown = Shown {
        sandbox: &trial.sandbox,
        template: &trial.template,
        labels: &trial.labels,
        authority: &authority,
        version: head.version(),
        handler: &trial.handler,
        revision: 1,
        room: &room,
        budget: &budget,
    };

    let mut outgoing = OutgoingRequest::new(&head, &authority);
    let mut log = Vec::new();
    let started = Instant::now();
    let mut consulted = consult(&mut guests.borrow_mut(), &loaded, &params, &shown, &mut outgoing, &mut log);
    let first = started.elapsed();
    let fuel = guests.borrow().fuel_spent();
    let (events, waits_for_answer) =
        goes_on(trial, &mut consulted, (&shown, &budget), &mut outgoing, &guests)?;
    let outcome = outcome(consulted, &outgoing)?;
    let mut times: Vec<Duration> = (0..trial.calls.min(TRIAL_CALLS_MAX))
        .map(|_| {
            time(&head, &shown, |request| {
                // Its outcome is known; the others are for the clock.
                let guests = &mut guests.borrow_mut();
                let _same = consult(guests, &loaded, &params, &shown, request, &mut Vec::new());
            })
        })
        .collect();
    times.sort();
    let usual = times.get(times.len() / 2).copied().unwrap_or(first);
    Ok(Tried {
        outcome,
        log: lines(&log),
        events,
        waits_for_answer,
        fuel,
        fuel_max: config.fuel.unsigned_abs(),
        first_micros: u64::try_from(first.as_micros()).unwrap_or(u64::MAX),
        usual_nanos: u64::try_from(usual.as_nanos()).unwrap_or(u64::MAX),
    })
}

fn decoded(text: &str) -> Result<Vec<u8>, TrialError> {
    BASE64.decode(text.as_bytes()).map_err(|error| TrialError::Read(error.into()))
}

fn authority(trial: &Trial, head: &RequestHead<&[u8]>) -> Result<Authority, AuthorityError> {
    let facts = ConnectionFacts {
        scheme: if trial.tls { Scheme::Https } else { Scheme::Http },
        connect_target: None,
        sni: None,
        destination: None,
        destination_name: None,
        explicit_proxy: false,
    };
    authority_of(head, &facts)
}

/// Plays the rest of the exchange for a handler that wants more of it than the request's head.
fn goes_on(
    trial: &Trial,
    consulted: &mut Result<Consulted, GuestError>,
    (shown, budget): (&Shown<'_>, &Rc<Budget>),
    outgoing: &mut OutgoingRequest<'_>,
    guests: &Rc<RefCell<Host>>,
) -> Result<(Vec<Event>, bool), TrialError> {
    let Ok(Consulted { verdict: Verdict::Forward(_), kept, body, authority, .. }) = consulted else {
        return Ok((Vec::new(), false));
    };
    let Some(kept) = kept.take() else { return Ok((Vec::new(), false)) };
    if *body == Some(BodyUse::Change) {
        outgoing.change_body();
    }
    let seen = Seen {
        sandbox: shown.sandbox.into(),
        template: shown.template.into(),
        labels: shown.labels.clone(),
        authority: authority.clone(),
        version: shown.version,
        revision: shown.revision,
        method: outgoing.method().into(),
        path: outgoing.path().into(),
        query: outgoing.query().map(Into::into),
        room: Rc::clone(shown.room),
        budget: Rc::clone(budget),
    };
    let used = HandlerUse {
        name: shown.handler.into(),
        params: Box::default(),
        on_error: OnError::Refuse,
        rule: "outbound".into(),
    };
    let hooked = Hooked::new(guests, kept, (Arc::new(used), DENY_STATUS), seen, *body);
    let mut exchange = Exchange::new(hooked, guests, trial.piece_bytes);
    exchange.body(Way::Up, &decoded(&trial.body)?);
    if let Some(answer) = &trial.answer {
        exchange.answer(answer, outgoing.method())?;
    }
    Ok(exchange.told())
}

fn lines(log: &[LogLine]) -> Vec<(String, String)> {
    log.iter().map(|line| (line.level.to_owned(), line.text.clone())).collect()
}

fn time(
    head: &RequestHead<&[u8]>,
    shown: &Shown<'_>,
    mut call: impl FnMut(&mut OutgoingRequest<'_>),
) -> Duration {
    let mut request = OutgoingRequest::new(head, shown.authority);
    let started = Instant::now();
    call(&mut request);
    started.elapsed()
}

fn outcome(
    consulted: Result<Consulted, GuestError>,
    outgoing: &OutgoingRequest<'_>,
) -> Result<Outcome, TrialError> {
    Ok(match consulted {
        Err(error) => Outcome::Failed { reason: chain(&error) },
        Ok(Consulted { verdict: Verdict::Refuse { status, fields: sent, reason }, .. }) => {
            Outcome::Refused { status, fields: fields(&sent), reason }
        }
        Ok(Consulted { verdict: Verdict::Respond { status, fields: sent, body }, .. }) => {
            let body = String::from_utf8_lossy(&body).into_owned();
            Outcome::Answered { status, fields: fields(&sent), body }
        }
        Ok(Consulted { verdict: Verdict::Forward(wanted), authority, judged_changed, .. }) => {
            let mut head = Vec::new();
            outgoing.write_to(&mut head)?;
            let secrets = wanted.into_iter().map(|wanted| (wanted.field, wanted.prefix, wanted.secret));
            Outcome::Forwarded {
                to: to(&authority),
                head: String::from_utf8_lossy(&head).into_owned(),
                secrets: secrets.collect(),
                judged_again: judged_changed,
            }
        }
    })
}

fn to(authority: &Authority) -> String {
    format!("{}://{authority}", authority.scheme)
}

fn fields(sent: &[(FieldName, FieldValue)]) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    sent.iter().map(|(name, value)| (text(name.bytes()), text(value.bytes()))).collect()
}
