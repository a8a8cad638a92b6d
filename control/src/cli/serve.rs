//! `serve`: control, and a plane on this machine; and `config`, the file that tells both.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::config::{Config, DEFAULTS, LISTEN_DEFAULT, STATE_DEFAULT};
use crate::local_plane::Given;
use crate::serve::{Fault, PlaneSettings, Settings, run};

/// What `serve` is told. What stands here is stronger than the file.
#[derive(Args)]
pub(super) struct ServeArgs {
    /// File of settings (TOML), control's and the plane's; `outgate config defaults` prints one.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// UDP address on which planes connect [default: 127.0.0.1:7443].
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Settings of the plane in a file of their own, without the rest.
    #[arg(long, value_name = "FILE", conflicts_with = "no_plane")]
    plane_config: Option<PathBuf>,
    /// Start no plane here.
    #[arg(long)]
    no_plane: bool,
    /// The plane's program; beside `outgate` unless given.
    #[arg(long, env = "OUTGATE_DATAPLANE", value_name = "PROGRAM")]
    dataplane: Option<PathBuf>,
}

/// What is done with files of settings.
#[derive(Subcommand)]
pub(super) enum ConfigCommand {
    /// Prints a file with every setting, each explained and as it is unless given
    Defaults,
    /// Says whether a file is sound, and what it comes to
    Check {
        /// The file.
        #[arg(default_value = "outgate.toml")]
        file: PathBuf,
    },
}

/// Serves until a signal ends it.
pub(super) async fn serve(
    state: Option<PathBuf>,
    socket: Option<PathBuf>,
    args: ServeArgs,
) -> Result<(), Fault> {
    run(settings(state, socket, args)?, None).await
}

/// The command line, then the file, then the defaults.
fn settings(state: Option<PathBuf>, socket: Option<PathBuf>, args: ServeArgs) -> Result<Settings, Fault> {
    let file = args.config.as_deref().map(Config::read).transpose().map_err(|fault| fault.to_string())?;
    let file = file.unwrap_or_default();
    let state = state.or(file.state).unwrap_or_else(|| STATE_DEFAULT.into());
    let state = std::path::absolute(state)?;
    let own = file.plane.table()?;
    let given = match args.plane_config {
        Some(path) if own.is_empty() => Given::File(path),
        Some(_) => return Err("the plane's settings stand in [plane] and in --plane-config; take one".into()),
        None => Given::Here(own),
    };
    let plane = PlaneSettings { config: given, program: args.dataplane.or(file.dataplane) };
    let wanted = !args.no_plane && file.start_plane != Some(false);
    let listen = match args.listen.or(file.listen) {
        Some(listen) => listen,
        None => LISTEN_DEFAULT.parse()?,
    };
    let socket = socket.or(file.socket).unwrap_or_else(|| state.join("api.sock"));
    Ok(Settings { state, socket, listen, plane: wanted.then_some(plane) })
}

/// Prints a file of settings, or looks at one.
pub(super) fn config(command: &ConfigCommand) -> Result<(), Fault> {
    match command {
        ConfigCommand::Defaults => print!("{DEFAULTS}"),
        ConfigCommand::Check { file } => check(file)?,
    }
    Ok(())
}

fn check(file: &Path) -> Result<(), Fault> {
    let args = ServeArgs {
        config: Some(file.to_owned()),
        listen: None,
        plane_config: None,
        no_plane: false,
        dataplane: None,
    };
    let settings = settings(None, None, args)?;
    println!("{} is sound. With it, `outgate serve` has", file.display());
    println!("state  {}", settings.state.display());
    println!("api    {}", settings.socket.display());
    println!("link   udp {}", settings.listen);
    match settings.plane {
        None => println!("plane  none on this machine"),
        Some(PlaneSettings { config: Given::Here(own), .. }) if !own.is_empty() => {
            println!("plane  with these settings of its own:\n\n{own}");
        }
        Some(_) => println!("plane  with its defaults"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(config: &Path) -> ServeArgs {
        ServeArgs {
            config: Some(config.to_owned()),
            listen: None,
            plane_config: None,
            no_plane: false,
            dataplane: None,
        }
    }

    #[test]
    fn the_command_line_is_stronger_than_the_file_and_the_file_than_the_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("outgate.toml");
        std::fs::write(&file, "state = \"s\"\nlisten = \"127.0.0.1:1\"\n[plane]\nshards = 2\n").unwrap();
        let by_file = settings(None, None, args(&file)).unwrap();
        assert_eq!((by_file.state.clone(), by_file.listen.port()), (folder.path().join("s"), 1));
        assert_eq!(by_file.socket, folder.path().join("s/api.sock"));
        let Some(PlaneSettings { config: Given::Here(own), .. }) = by_file.plane else { panic!("a plane") };
        assert_eq!(own["shards"].as_integer(), Some(2));

        let stronger = ServeArgs { listen: "127.0.0.1:2".parse().ok(), no_plane: true, ..args(&file) };
        let by_line = settings(Some("/t".into()), None, stronger).unwrap();
        assert_eq!((by_line.state, by_line.listen.port()), (PathBuf::from("/t"), 2));
        assert!(by_line.plane.is_none());

        let both = ServeArgs { plane_config: Some("p.toml".into()), ..args(&file) };
        assert!(settings(None, None, both).unwrap_err().to_string().contains("take one"));
    }
}
