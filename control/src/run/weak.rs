//! The mode of a machine that allows no sandbox: the program is told of a proxy, and may well not use it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use control_wire::attach::Password;
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use crate::sandbox::{End, Environment, Trust};

/// Variables that name the proxy, for programs that look at them.
const PROXIES: [&str; 6] =
    ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];

/// Writes the files of trust, which no mount can lay over the system's, into a folder.
///
/// # Errors
/// Those of the files.
pub fn write(trust: &Trust, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    trust.files.iter().try_for_each(|(name, bytes)| fs::write(folder.join(name), bytes))
}

/// Adds the proxy to a program's variables.
pub fn point(environment: &mut Environment, proxy: SocketAddr, sandbox: &str, password: &Password) {
    let url = OsString::from(format!("http://{sandbox}:{}@{proxy}", password.expose()));
    environment.variables.extend(PROXIES.iter().map(|name| (OsString::from(name), url.clone())));
}

/// Runs the program to its end. Signals for its end go to it; a terminal sends its own to both.
///
/// # Errors
/// When it cannot be started.
pub fn run(command: &[OsString], environment: &Environment) -> io::Result<End> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let entered = runtime.enter();
    let (mut interrupt, mut quit) = (signal(SignalKind::interrupt())?, signal(SignalKind::quit())?);
    let (mut terminate, mut hang_up) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    drop(entered);
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut started = Command::new(program);
    started.args(arguments).env_clear().envs(environment.variables.iter().cloned());
    let mut child = started.spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pass = move |signal| {
        // It may have ended by itself.
        let _passed = pid.map(|pid| kill_process(pid, signal));
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = quit.recv() => {}
                    _ = terminate.recv() => pass(Signal::TERM),
                    _ = hang_up.recv() => pass(Signal::HUP),
                }
            }
        });
    });
    let status = child.wait()?;
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    Ok(match (status.code(), signal) {
        (Some(code), _) => End::Exited(u8::try_from(code).unwrap_or(u8::MAX)),
        (None, signal) => End::Killed { signal: signal.unwrap_or(0) },
    })
}
