//! Runs a program in the sandbox of `outgate run`, with a stand-in for the plane that answers where each connection was
//! meant to go. For the tests of the sandbox by itself.
//!
//! `in-sandbox [--hide-variable NAME]… [--hide-file PATH]… [--times] [--end-after-start] [--ask] -- PROGRAM ARGUMENTS…`, or
//! `in-sandbox probe WHAT ARGUMENTS…` for a program that tries one thing and says what came of it.

mod probe;

use std::io::{self, BufRead, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use control::sandbox::{Hidden, Lender, Sandbox, SandboxError, Trust, World, environment, folder};
use control_wire::attach::ListenerKind;

/// What every name inside is answered with.
const ANSWER: [u8; 4] = [198, 18, 0, 7];

#[derive(Default)]
struct Options {
    hidden_variables: Vec<String>,
    hidden_files: Vec<String>,
    times: bool,
    end_after_start: bool,
    ask: bool,
    program: Vec<String>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(status) = control::sandbox::process(&arguments) {
        return status;
    }
    if let Some(("probe", rest)) = arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        println!("{}", probe::tried(rest));
        return ExitCode::SUCCESS;
    }
    match run(options(arguments)) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("in-sandbox: {}", control::causes::chain(&error));
            ExitCode::from(error.status())
        }
    }
}

fn options(arguments: Vec<String>) -> Options {
    let mut options = Options::default();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--hide-variable" => options.hidden_variables.extend(arguments.next()),
            "--hide-file" => options.hidden_files.extend(arguments.next()),
            "--times" => options.times = true,
            "--ask" => options.ask = true,
            "--end-after-start" => options.end_after_start = true,
            "--" => options.program = arguments.by_ref().collect(),
            other => panic!("unknown option {other}"),
        }
    }
    options
}

fn run(options: Options) -> Result<u8, SandboxError> {
    let started = Instant::now();
    // As `outgate run` is: with a secret in its memory.
    control::sandbox::close_to_others().expect("a process may close itself");
    let mut sandbox = Sandbox::make()?;
    let (made, inside) = (started.elapsed(), sandbox.took());
    for (kind, socket) in sandbox.take_listeners() {
        thread::spawn(move || stand_in(kind, socket));
    }
    let authority = authority();
    let trust = Trust::new(&authority, &folder()?, std::env::home_dir().as_deref()).expect("a certificate");
    let values = options.hidden_variables.iter().filter_map(|name| std::env::var(name).ok());
    let hidden = Hidden {
        variables: options.hidden_variables.iter().map(Into::into).collect(),
        values: values.map(|value| value.into_bytes().into()).collect(),
    };
    let environment = environment(std::env::vars_os(), &hidden, &trust);
    let (program, arguments) = options.program.split_first().expect("a program");
    let before = Instant::now();
    let running = sandbox.start(World {
        program: program.into(),
        arguments: arguments.iter().map(Into::into).collect(),
        directory: std::env::current_dir().expect("a folder"),
        environment: environment.variables,
        trust,
        hidden: options.hidden_files.iter().map(Into::into).collect(),
        kept: None,
    })?;
    let furnished = before.elapsed();
    if options.end_after_start {
        running.ender().end();
    }
    if options.ask {
        ask(&running.lender()).expect("the terminal is lent");
    }
    let end = running.wait()?;
    if options.times {
        eprintln!(
            "made {made:?} (inside {inside:?}), furnished {furnished:?}, whole {:?}",
            started.elapsed()
        );
    }
    Ok(end.status())
}

/// Asks the person at the terminal, while the program wants to read from it.
fn ask(lender: &Lender) -> io::Result<()> {
    let lent = lender.borrow().ok_or(io::ErrorKind::NotFound)?;
    assert!(lender.borrow().is_none(), "it is lent once");
    writeln!(lent.file(), "may it?")?;
    let mut answer = String::new();
    io::BufReader::new(lent.file()).read_line(&mut answer)?;
    writeln!(lent.file(), "you said {}", answer.trim_end())
}

fn authority() -> String {
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate =
        rcgen::CertificateParams::new(vec!["authority".into()]).expect("a name").self_signed(&key);
    certificate.expect("a certificate").pem()
}

/// What the plane would do with a listener, in short.
fn stand_in(kind: ListenerKind, socket: OwnedFd) {
    match kind {
        ListenerKind::DnsUdp => {
            let socket = UdpSocket::from(socket);
            let mut query = [0; 512];
            while let Ok((count, from)) = socket.recv_from(&mut query) {
                let _gone = socket.send_to(&answer(&query[..count]), from);
            }
        }
        ListenerKind::DnsTcp => {
            for stream in TcpListener::from(socket).incoming().flatten() {
                let _gone = names_over_tcp(stream);
            }
        }
        _ => {
            for mut stream in TcpListener::from(socket).incoming().flatten() {
                let wanted = stream.local_addr().expect("an address");
                let wanted = (wanted.ip().to_canonical(), wanted.port());
                let _gone = writeln!(stream, "to {} {}", wanted.0, wanted.1);
            }
        }
    }
}

fn names_over_tcp(mut stream: impl Read + Write) -> io::Result<()> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut query)?;
    let answer = answer(&query);
    let length = u16::try_from(answer.len()).unwrap_or(u16::MAX).to_be_bytes();
    stream.write_all(&[&length[..], &answer].concat())
}

/// The question, answered with one address (RFC 1035 §4.1) where it asks for version 4, else with none.
fn answer(query: &[u8]) -> Vec<u8> {
    let name = query.get(12..).unwrap_or_default().iter().position(|byte| *byte == 0).unwrap_or_default();
    let end = (12 + name + 5).min(query.len());
    let mut answer = query[..end].to_vec();
    let is_address = answer.get(end.saturating_sub(4)..end) == Some(&[0, 1, 0, 1]);
    if let Some(header) = answer.get_mut(2..12) {
        header.copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0]);
    }
    if is_address {
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend_from_slice(&ANSWER);
    }
    answer
}
