//! What one run does: where it goes, how many connections, when it ends.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use crate::usage::Pid;

/// How requests reach the origin.
#[derive(Clone, Debug)]
pub enum Way {
    /// Straight to this address: an origin, or a reverse proxy in front of it.
    Direct(SocketAddr),
    /// Through an explicit proxy; TLS goes inside a `CONNECT` tunnel, plain HTTP in absolute form.
    Proxy {
        /// Address of the proxy.
        address: SocketAddr,
        /// Value of `Proxy-Authorization`.
        authorization: Option<String>,
    },
}

impl Way {
    /// The address that is dialled.
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Direct(address) | Self::Proxy { address, .. } => *address,
        }
    }
}

/// One run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How requests reach the origin.
    pub way: Way,
    /// Host named in requests and in TLS.
    pub host: String,
    /// Port named in `CONNECT` and in absolute targets.
    pub port: u16,
    /// PEM file with the roots that the client trusts; absent: plain HTTP.
    pub roots: Option<PathBuf>,
    /// Connections held open at once.
    pub connections: usize,
    /// A new connection for each request.
    pub reconnect: bool,
    /// Path that is asked for.
    pub path: String,
    /// The run ends after this time.
    pub time: Duration,
    /// Or after this many answers.
    pub requests_max: u64,
    /// Processes whose use of the machine is reported.
    pub pids: Vec<Pid>,
}

/// Why a plan is not run.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The target is not on this machine.
    #[error("{0} is not a loopback address; a load test of other machines needs --anywhere")]
    NotLoopback(IpAddr),
    /// Nothing to do.
    #[error("`--connections` must be between 1 and {max}", max = CONNECTIONS_MAX)]
    Connections,
}

/// Connections of one run. Larger: descriptors of the usual limit run out. Smaller: fleets cannot be played.
pub const CONNECTIONS_MAX: usize = 16_384;

impl Plan {
    /// Refuses a plan that would hit another machine or cannot run.
    ///
    /// # Errors
    /// When the target is not loopback, or the number of connections is out of range.
    pub fn check(&self) -> Result<(), PlanError> {
        let target = self.way.address().ip();
        if !target.is_loopback() {
            return Err(PlanError::NotLoopback(target));
        }
        if self.connections == 0 || self.connections > CONNECTIONS_MAX {
            return Err(PlanError::Connections);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_outside_the_machine_is_refused() {
        let plan = Plan {
            way: Way::Direct("192.0.2.1:80".parse().unwrap()),
            host: "a.test".into(),
            port: 80,
            roots: None,
            connections: 1,
            reconnect: false,
            path: "/".into(),
            time: Duration::from_secs(1),
            requests_max: 1,
            pids: Vec::new(),
        };
        assert!(matches!(plan.check(), Err(PlanError::NotLoopback(_))));
    }
}
