//! `sandbox`: who may send, by which template, and what differs for this one.

use clap::Subcommand;
use serde_json::{Value, json};

use super::api::{Api, at};
use crate::client::segment;
use crate::serve::Fault;

/// What is done with sandboxes.
#[derive(Subcommand)]
pub(super) enum Sandbox {
    /// Makes or replaces one
    Put {
        /// Its id.
        id: String,
        /// Name of its template.
        #[arg(long)]
        template: String,
        /// Its own list of allowed hosts, in place of the template's.
        #[arg(long, num_args = 1..)]
        allow: Vec<String>,
    },
    /// Prints one
    Get {
        /// Its id.
        id: String,
    },
    /// Removes one; what is attached to it is refused from then on
    Rm {
        /// Its id.
        id: String,
    },
    /// Lists ids, templates and revisions
    List,
    /// Replaces the list of allowed hosts
    SetAllowedHosts {
        /// Id of the sandbox.
        id: String,
        /// Host patterns, like api.github.com or '*.pypi.org'.
        hosts: Vec<String>,
    },
    /// Replaces the list of denied hosts, which wins over everything else
    SetDeniedHosts {
        /// Id of the sandbox.
        id: String,
        /// Host patterns, like api.github.com or '*.pypi.org'.
        hosts: Vec<String>,
    },
    /// Sets the handler of every request that no host names
    SetOutbound {
        /// Id of the sandbox.
        id: String,
        /// Name under which the handler was published.
        handler: String,
        /// What it is told, as JSON.
        #[arg(long)]
        params: Option<String>,
    },
    /// Sets the handler of requests to hosts of a pattern
    SetOutboundByHost {
        /// Id of the sandbox.
        id: String,
        /// Host pattern.
        host: String,
        /// Name under which the handler was published.
        handler: String,
        /// What it is told, as JSON.
        #[arg(long)]
        params: Option<String>,
    },
    /// Removes the handler that `set-outbound` has set
    RmOutbound {
        /// Id of the sandbox.
        id: String,
    },
    /// Removes the handler that `set-outbound-by-host` has set for this pattern
    RmOutboundByHost {
        /// Id of the sandbox.
        id: String,
        /// Host pattern.
        host: String,
    },
    /// Denies everything for these, and waits until that is enforced
    Lockdown {
        /// Their ids.
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Prints the certificate of its authority
    Ca {
        /// Id of the sandbox.
        id: String,
    },
}

/// Does it.
pub(super) async fn obey(api: &Api, command: Sandbox) -> Result<(), Fault> {
    let of = |id: &str| at("sandboxes", id);
    match command {
        Sandbox::Put { id, template, allow } => {
            let overrides = if allow.is_empty() { json!({}) } else { json!({ "allowedHosts": allow }) };
            api.put(&of(&id), json!({ "template": template, "overrides": overrides })).await
        }
        Sandbox::Get { id } => api.get(&of(&id)).await,
        Sandbox::Rm { id } => api.remove(&of(&id)).await,
        Sandbox::List => api.get("/v1/sandboxes").await,
        Sandbox::SetAllowedHosts { id, hosts } => {
            api.put(&format!("{}/allowedHosts", of(&id)), json!(hosts)).await
        }
        Sandbox::SetDeniedHosts { id, hosts } => {
            api.put(&format!("{}/deniedHosts", of(&id)), json!(hosts)).await
        }
        Sandbox::SetOutbound { id, handler, params } => {
            api.put(&format!("{}/outbound", of(&id)), outbound(&handler, params)?).await
        }
        Sandbox::SetOutboundByHost { id, host, handler, params } => {
            api.put(&by_host(&of(&id), &host), outbound(&handler, params)?).await
        }
        Sandbox::RmOutbound { id } => api.remove(&format!("{}/outbound", of(&id))).await,
        Sandbox::RmOutboundByHost { id, host } => api.remove(&by_host(&of(&id), &host)).await,
        Sandbox::Lockdown { ids } => {
            api.show("POST", "/v1/lockdown", json!({ "ids": ids }).to_string().into_bytes()).await
        }
        Sandbox::Ca { id } => api.get(&format!("{}/ca.pem", of(&id))).await,
    }
}

fn by_host(sandbox: &str, host: &str) -> String {
    format!("{sandbox}/outboundByHost/{}", segment(host))
}

fn outbound(handler: &str, params: Option<String>) -> Result<Value, Fault> {
    let read = |text: String| {
        serde_json::from_str(&text).map_err(|error| format!("--params takes JSON, not `{text}`: {error}"))
    };
    let params: Value = params.map(read).transpose()?.unwrap_or_default();
    Ok(json!({ "handler": handler, "params": params }))
}
