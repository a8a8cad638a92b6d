//! What `outgate run` is told, and what its short forms mean.

use std::ffi::OsString;
use std::io::Read;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use control_wire::limits::SECRET_BYTES_MAX;
use control_wire::pattern::HostPattern;
use serde_json::Value;
use zeroize::Zeroizing;

/// What `outgate run` is told.
#[derive(Args)]
pub struct RunArgs {
    /// A host that may be reached: `api.github.com`, `*.npmjs.org`, `example.com:8443`
    #[arg(long, value_name = "HOST[:PORT]")]
    pub allow: Vec<HostText>,
    /// A host that may not be reached, whatever else is allowed
    #[arg(long, value_name = "HOST[:PORT]")]
    pub deny: Vec<HostText>,
    /// A credential that the gateway attaches and the program never holds; KIND is bearer (unless given),
    /// basic (the value is user:password), basic=USER (the value is the password), header=FIELD or query=PARAMETER
    #[arg(long, value_name = "NAME=env:VAR|file:PATH@HOST[:KIND]")]
    pub secret: Vec<SecretWish>,
    /// A handler for every request, or for those to one host, with parameters as JSON
    #[arg(long, value_name = "FILE.wasm[@HOST][=PARAMS]")]
    pub handler: Vec<HandlerWish>,
    /// A policy in a file (TOML, YAML or JSON); what the options say is added to it
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Let everything through that is safe to dial, and print the least policy that would have done
    #[arg(long, conflicts_with = "policy")]
    pub observe: bool,
    /// Ask at the terminal whenever nothing allows a request, which waits for the answer
    #[arg(long, conflicts_with = "observe")]
    pub ask: bool,
    /// Append the records to this file too, which the program cannot see
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Print no summary at the end
    #[arg(long)]
    pub no_tty_summary: bool,
    /// Where this machine allows no sandbox: hand over the program to its own good will, secrets included
    #[arg(long)]
    pub weak: bool,
    /// Run behind a gateway that runs already, by the socket of its API; that of `outgate serve` here unless given.
    /// Who may use that socket is its operator: the sandbox, its policy and its secrets are put there for as long as
    /// the program runs
    #[arg(long, value_name = "SOCKET", conflicts_with_all = ["weak", "plane_config"])]
    pub via: Option<Option<PathBuf>>,
    /// Settings of the plane (TOML), as `outgate serve` takes them
    #[arg(long, value_name = "FILE")]
    pub plane_config: Option<PathBuf>,
    /// The plane's program
    #[arg(long, env = "OUTGATE_DATAPLANE")]
    pub dataplane: Option<PathBuf>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// A host pattern that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostText(pub String);

impl FromStr for HostText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        HostPattern::parse(text).map_err(|error| error.to_string())?;
        Ok(Self(text.to_owned()))
    }
}

/// Where a secret's value lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a variable of this command.
    Variable(String),
    /// In a file; one newline at its end is not part of it.
    File(PathBuf),
}

/// How a secret is put on a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `Authorization: Bearer`.
    Bearer,
    /// `Authorization: Basic`; the value is `user:password`.
    Basic,
    /// The same for this user; the value is the password.
    BasicOf(String),
    /// The value alone, in this field.
    Header(String),
    /// In this parameter of the query.
    Query(String),
}

/// One `--secret`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretWish {
    /// Its name.
    pub name: String,
    /// Where its value lies.
    pub source: Source,
    /// The only host that gets it.
    pub host: String,
    /// How.
    pub kind: Kind,
}

const SECRET_FORM: &str = "write NAME=env:VAR@HOST or NAME=file:PATH@HOST, then :basic, :basic=USER, :header=FIELD \
                           or :query=PARAMETER where it is not to be a bearer token";

impl FromStr for SecretWish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = || {
            let (name, rest) = text.split_once('=')?;
            let (source, host) = rest.rsplit_once('@')?;
            let source = match source.split_once(':')? {
                ("env", variable) if !variable.is_empty() => Source::Variable(variable.to_owned()),
                ("file", path) if !path.is_empty() => Source::File(path.into()),
                _ => return None,
            };
            Some((name, source, host)).filter(|_| !name.is_empty())
        };
        let (name, source, host) = parts().ok_or_else(|| SECRET_FORM.to_owned())?;
        let (host, kind) = match host.rsplit_once(':') {
            Some((host, "bearer")) => (host, Kind::Bearer),
            Some((host, "basic")) => (host, Kind::Basic),
            Some((host, kind)) if kind.starts_with("basic") => {
                (host, Kind::BasicOf(field(kind, "basic", name)?))
            }
            Some((host, kind)) if kind.starts_with("header") => {
                (host, Kind::Header(field(kind, "header", name)?))
            }
            Some((host, kind)) if kind.starts_with("query") => {
                (host, Kind::Query(field(kind, "query", name)?))
            }
            // A port.
            _ => (host, Kind::Bearer),
        };
        let HostText(host) = host.parse()?;
        Ok(Self { name: name.to_owned(), source, host, kind })
    }
}

/// The field that a kind names; that of the secret's own name where it names none.
fn field(kind: &str, word: &str, name: &str) -> Result<String, String> {
    match kind.strip_prefix(word).unwrap_or_default() {
        "" => Ok(name.to_owned()),
        named => match named.strip_prefix('=') {
            Some(field) if !field.is_empty() => Ok(field.to_owned()),
            _ => Err(SECRET_FORM.to_owned()),
        },
    }
}

impl SecretWish {
    /// Reads its value.
    ///
    /// # Errors
    /// With the variable or file that cannot be read. Never with a part of the value.
    pub fn value(&self) -> Result<Zeroizing<String>, String> {
        let mut value = Zeroizing::new(String::new());
        match &self.source {
            Source::Variable(name) => {
                let found =
                    std::env::var_os(name).ok_or_else(|| format!("the variable {name} is not set"))?;
                let found = found.into_string().map_err(|_| format!("the variable {name} is not UTF-8"))?;
                value = Zeroizing::new(found);
            }
            Source::File(path) => {
                let read = std::fs::File::open(path)
                    .and_then(|file| file.take(SECRET_BYTES_MAX as u64 + 2).read_to_string(&mut value));
                read.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
                if value.ends_with('\n') {
                    value.pop();
                }
            }
        }
        let problem = |what: &str| Err(format!("the value of the secret `{}` {what}", self.name));
        match value.len() {
            0 => problem("is empty"),
            1..=SECRET_BYTES_MAX => Ok(value),
            _ => problem(&format!("has more than {SECRET_BYTES_MAX} bytes")),
        }
    }
}

/// One `--handler`.
#[derive(Clone, Debug, PartialEq)]
pub struct HandlerWish {
    /// The module.
    pub file: PathBuf,
    /// The host whose requests it gets; all where there is none.
    pub host: Option<String>,
    /// What it is told.
    pub params: Option<Value>,
}

impl HandlerWish {
    /// By which control knows it: the file's name.
    pub fn name(&self) -> String {
        self.file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }
}

impl FromStr for HandlerWish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // What follows the module's ending is ours; everything before it is a path.
        let ending =
            text.find(".wasm").ok_or("write FILE.wasm, then @HOST and =PARAMS where they are wanted")?;
        let (file, rest) = text.split_at(ending + ".wasm".len());
        let (host, params) = match rest.split_once('=') {
            Some((host, params)) => (host, Some(params)),
            None => (rest, None),
        };
        let host = match host.strip_prefix('@') {
            Some(host) => Some(host.parse::<HostText>()?.0),
            None if host.is_empty() => None,
            None => return Err(format!("`{host}` follows the file; write @HOST before a host")),
        };
        let read =
            |text: &str| serde_json::from_str(text).map_err(|error| format!("PARAMS are no JSON: {error}"));
        Ok(Self { file: file.into(), host, params: params.map(read).transpose()? })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn secret(text: &str) -> SecretWish {
        text.parse().unwrap()
    }

    #[test]
    fn a_secret_says_where_it_lies_where_it_goes_and_how() {
        let wish = secret("github=env:GITHUB_TOKEN@github.com");
        assert_eq!((&*wish.name, &*wish.host, wish.kind), ("github", "github.com", Kind::Bearer));
        assert_eq!(wish.source, Source::Variable("GITHUB_TOKEN".into()));
        let wish = secret("k=file:/home/me@work/key@api.example:8443:header=X-Api-Key");
        assert_eq!(wish.source, Source::File("/home/me@work/key".into()));
        assert_eq!((&*wish.host, wish.kind), ("api.example:8443", Kind::Header("X-Api-Key".into())));
        assert_eq!(secret("key=env:K@a.example:query").kind, Kind::Query("key".into()));
        assert_eq!(secret("key=env:K@a.example:basic").kind, Kind::Basic);
        assert_eq!(
            secret("key=env:K@a.example:basic=x-access-token").kind,
            Kind::BasicOf("x-access-token".into())
        );
        assert_eq!(secret("key=env:K@a.example:8443").host, "a.example:8443");
    }

    #[test]
    fn a_secret_that_is_not_understood_is_refused_with_the_form() {
        for text in [
            "github",
            "=env:A@h.example",
            "a=A@h.example",
            "a=env:@h.example",
            "a=env:A",
            "a=env:A@h:header=",
            "a=env:A@h:basic=",
        ] {
            let error = text.parse::<SecretWish>().unwrap_err();
            assert!(error.contains("NAME=env:VAR@HOST"), "{text}: {error}");
        }
        assert!("a=env:A@https://h.example".parse::<SecretWish>().unwrap_err().contains("scheme"));
    }

    #[test]
    fn a_handler_names_its_host_and_parameters() {
        let wish: HandlerWish = "a=b/get_only.wasm@*.example.com={\"a\": \"x=y\"}".parse().unwrap();
        assert_eq!((wish.name().as_str(), wish.host.as_deref()), ("get_only", Some("*.example.com")));
        assert_eq!(wish.file, Path::new("a=b/get_only.wasm"));
        assert_eq!(wish.params, Some(serde_json::json!({"a": "x=y"})));
        let wish: HandlerWish = "h.wasm".parse().unwrap();
        assert_eq!((wish.host, wish.params), (None, None));
        for text in ["h.wat", "h.wasm@", "h.wasmx", "h.wasm={"] {
            assert!(text.parse::<HandlerWish>().is_err(), "{text}");
        }
    }
}
