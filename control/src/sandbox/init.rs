//! The two processes between `run` and the program: one that leaves the machine's namespaces, and its child, the first
//! process inside, which makes the sandbox, starts the program, reaps, and takes everything along when it ends.
//!
//! Each is killed by the kernel when the one above it dies, and the death of the first process of a process namespace
//! kills all others in it (pid_namespaces(7)): whatever happens to `run`, nothing is left.

use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    DumpableBehavior, Pid, Signal, WaitOptions, WaitStatus, getpgrp, kill_process, kill_process_group,
    set_dumpable_behavior, set_parent_process_death_signal, setpgid, wait, waitpid,
};

use super::exposed::Exposed;
use super::freeze::Freeze;
use super::namespace::{self, Shown};
use super::refusal::{Machine, Refusal};
use super::terminal::Terminal;
use super::word::{End, Fault, Furniture, Order, Report, hear, say};
use super::{capture, mounts, privileges, system};

/// Status of these processes when the sandbox was not made; nobody but `run` sees it.
const FAILED: u8 = 125;

/// Leaves the machine's namespaces. Its standard input is the socket to `run`; the program's own comes later.
pub(super) fn main() -> ExitCode {
    let started = Instant::now();
    // What `ps` shows would be `exe`.
    let _only_a_name = rustix::thread::set_name(c"outgate");
    let made = io::stdin().as_fd().try_clone_to_owned().and_then(|socket| {
        // The socket is nothing for those that follow.
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        system::close_on_exec_from(3)?;
        system::keep_ends_of_children()?;
        Ok(socket)
    });
    let Ok(socket) = made else { return ExitCode::from(FAILED) };
    match separate(&socket, started) {
        Ok(status) => status,
        Err(fault) => {
            // Who is gone needs no report.
            let _gone = say(&socket, &Report::Failed(fault), &[]);
            ExitCode::from(FAILED)
        }
    }
}

fn separate(socket: &OwnedFd, started: Instant) -> Result<ExitCode, Fault> {
    let step = |what: &'static str| move |error: io::Error| Fault::step(what, &error);
    let machine = Machine::read();
    let exposed = Exposed::look(rustix::process::getuid().as_raw()).map_err(step("read /proc/net/unix"))?;
    namespace::separate(Shown::Same).map_err(|error| Fault::Refused(machine.explain(&error)))?;
    die_with_parent(socket.as_fd()).map_err(step("be bound to the process above"))?;
    let (below, above) = io::pipe().map_err(step("make a pipe"))?;
    match system::fork().map_err(step("start the first process"))? {
        None => {
            drop(above);
            Ok(first(socket, &below, &exposed, &machine, started))
        }
        Some(child) => {
            drop(below);
            // No longer needed, and nothing inside can see this process.
            privileges::drop_all().map_err(|(what, error)| Fault::step(what, &error))?;
            let _always_possible = set_dumpable_behavior(DumpableBehavior::NotDumpable);
            let status = loop {
                match waitpid(Some(child), WaitOptions::empty()) {
                    Err(rustix::io::Errno::INTR) | Ok(None) => {}
                    Ok(Some((_, status))) => break status.exit_status(),
                    Err(_) => break None,
                }
            };
            // Its end is what the first process waits for, should it still be there.
            drop(above);
            let status = status.and_then(|status| u8::try_from(status).ok());
            Ok(ExitCode::from(status.unwrap_or(FAILED)))
        }
    }
}

/// Lets the kernel kill this process when the one above dies. That one may be dead already: then the other end of
/// `line`, which it holds, is closed.
fn die_with_parent(line: BorrowedFd<'_>) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut watched = [PollFd::from_borrowed_fd(line, PollFlags::empty())];
    poll(&mut watched, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    let gone = watched[0].revents().intersects(PollFlags::HUP | PollFlags::ERR);
    if gone { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
}

/// The first process inside.
fn first(
    socket: &OwnedFd,
    line: &PipeReader,
    exposed: &Exposed,
    machine: &Machine,
    started: Instant,
) -> ExitCode {
    let done = make(socket, line, exposed, started).and_then(|()| furnish(socket));
    let furniture = match done {
        Ok(Some(furniture)) => furniture,
        // `run` has changed its mind.
        Ok(None) => return ExitCode::from(FAILED),
        Err(fault) => {
            let _gone = say(socket, &Report::Failed(restricted(fault, machine)), &[]);
            return ExitCode::from(FAILED);
        }
    };
    match start(socket, &furniture) {
        Ok(program) => attend(socket, program),
        Err(fault) => {
            let _gone = say(socket, &Report::Failed(fault), &[]);
            ExitCode::from(FAILED)
        }
    }
}

/// AppArmor lets a user namespace be made and then refuses what it is for (EACCES, EPERM).
fn restricted(fault: Fault, machine: &Machine) -> Fault {
    let refused = |error: &str| error.contains("denied") || error.contains("not permitted");
    match fault {
        Fault::Step { ref error, .. } if machine.is_restricted() && refused(error) => {
            Fault::Refused(Refusal::AppArmor)
        }
        fault => fault,
    }
}

/// Everything that needs nothing from `run`.
fn make(socket: &OwnedFd, line: &PipeReader, exposed: &Exposed, started: Instant) -> Result<(), Fault> {
    die_with_parent(line.as_fd()).map_err(|error| Fault::step("be bound to the process above", &error))?;
    mounts::separate(exposed)?;
    let listeners = capture::open().map_err(|(what, error)| {
        let missing = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::Unsupported)
            || error.raw_os_error() == Some(libc::EPROTONOSUPPORT);
        if what == capture::CAPTURE_STEP && missing {
            return Fault::Refused(Refusal::Capture { error: error.to_string() });
        }
        Fault::step(what, &error)
    })?;
    let (kinds, sockets): (Vec<_>, Vec<_>) = listeners.into_iter().unzip();
    let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    let passed: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    say(socket, &Report::Ready { kinds, micros }, &passed)
        .map_err(|error| Fault::step("pass the listeners", &error))
}

/// What a program is started from.
struct Furnished {
    furniture: Furniture,
    stdin: OwnedFd,
}

/// Waits for what is to be inside, and puts it there. Then there is nothing left to be allowed to do.
fn furnish(socket: &OwnedFd) -> Result<Option<Furnished>, Fault> {
    let step = |what: &'static str| move |error: io::Error| Fault::step(what, &error);
    let heard = hear::<Order>(socket).map_err(step("hear what to start"))?;
    let Some((Order::Start, passed)) = heard else { return Ok(None) };
    let [furniture, stdin] = <[OwnedFd; 2]>::try_from(passed)
        .map_err(|_| Fault::step("hear what to start", &io::ErrorKind::InvalidData.into()))?;
    let furniture = Furniture::read(furniture).map_err(step("read what to start"))?;
    mounts::furnish(&furniture)?;
    privileges::drop_all().map_err(|(what, error)| Fault::step(what, &error))?;
    // The program has this process's user and could otherwise read what it heard.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| Fault::step("close this process to others", &error.into()))?;
    Ok(Some(Furnished { furniture, stdin }))
}

/// Starts the program, in a process group of its own; answers when it runs.
fn start(socket: &OwnedFd, furnished: &Furnished) -> Result<Pid, Fault> {
    let step = |what: &'static str| move |error: io::Error| Fault::step(what, &error);
    let (mut told, tell) = io::pipe().map_err(step("make a pipe"))?;
    let Some(program) = system::fork().map_err(step("start the program"))? else {
        drop(told);
        become_program(furnished, tell)
    };
    drop(tell);
    let mut word = Vec::new();
    told.read_to_end(&mut word).map_err(step("hear from the program's process"))?;
    match word.split_first_chunk() {
        // The pipe was closed by `exec`.
        None => {
            say(socket, &Report::Started, &[]).map_err(step("tell that the program runs"))?;
            Ok(program)
        }
        Some((errno, what)) => {
            let errno = i32::from_ne_bytes(*errno);
            Err(if what == FOLDER { Fault::Folder { errno } } else { Fault::Program { errno } })
        }
    }
}

/// Marks an error that is the folder's and not the program's.
const FOLDER: &[u8] = b"d";

fn become_program(furnished: &Furnished, mut tell: impl Write) -> ! {
    let Furnished { furniture, stdin } = furnished;
    let failed = |error: &io::Error, mark: &[u8], tell: &mut dyn Write| -> ! {
        let errno = error.raw_os_error().unwrap_or(libc::EIO).to_ne_bytes();
        let _gone = tell.write_all(&[&errno[..], mark].concat());
        std::process::exit(i32::from(FAILED))
    };
    // A process that was just made can make itself a group, and standard input can be replaced.
    let _always_possible = setpgid(None, None);
    if furniture.foreground
        && let Some(terminal) = Terminal::open()
    {
        terminal.give(getpgrp());
    }
    let placed = rustix::stdio::dup2_stdin(stdin).map_err(io::Error::from);
    if let Err(error) = placed.and_then(|()| std::env::set_current_dir(&furniture.directory)) {
        failed(&error, FOLDER, &mut tell);
    }
    let mut command = Command::new(&furniture.program);
    command
        .args(&furniture.arguments)
        .env_clear()
        .envs(furniture.environment.iter().map(|(name, value)| (name, value)));
    let error = command.exec();
    failed(&error, &[], &mut tell)
}

/// Obeys and reaps until the program ends. With this process everything else inside ends.
fn attend(socket: &OwnedFd, program: Pid) -> ExitCode {
    let Ok(orders) = socket.try_clone() else { return ExitCode::from(FAILED) };
    std::thread::spawn(move || {
        let mut freeze = Freeze::default();
        while let Ok(Some((order, _))) = hear::<Order>(&orders) {
            obey(&order, program, &mut freeze);
        }
        // `run` is gone, or wants no more of this.
        std::process::exit(i32::from(FAILED));
    });
    loop {
        match wait(WaitOptions::UNTRACED) {
            Ok(Some((pid, status))) if pid == program => {
                if let Some(end) = ended(status) {
                    let _gone = say(socket, &Report::Ended(end), &[]);
                    return ExitCode::from(end.status());
                }
                let _gone = say(socket, &Report::Stopped, &[]);
            }
            // Whoever lost its parent is this process's child.
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return ExitCode::from(FAILED),
        }
    }
}

fn ended(status: WaitStatus) -> Option<End> {
    if let Some(status) = status.exit_status() {
        return Some(End::Exited(u8::try_from(status & 0xff).unwrap_or(u8::MAX)));
    }
    status.terminating_signal().map(|signal| End::Killed { signal })
}

fn obey(order: &Order, program: Pid, freeze: &mut Freeze) {
    match order {
        Order::Start => {}
        // It may have ended meanwhile; its number is not used again before this process ends too.
        Order::Signal(number) => {
            if let Some(signal) = Signal::from_named_raw(*number) {
                let _ended = kill_process(program, signal);
            }
        }
        Order::Pause => freeze.stop(),
        Order::Resume { foreground } => {
            if *foreground && let Some(terminal) = Terminal::open() {
                terminal.give(program);
            }
            freeze.go_on();
            // Its group has its number, unless it has taken another: then its own is asked.
            if kill_process_group(program, Signal::CONT).is_err() {
                let _ended = kill_process(program, Signal::CONT);
            }
        }
    }
}
