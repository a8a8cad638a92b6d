//! The request that a handler judges.

use handlers_sdk_abi::view::flags;
use handlers_sdk_abi::{ActionWriter, View};

use crate::headers::Headers;
use crate::method::Method;
use crate::outcome::Outcome;

/// The head of a request that left a sandbox, and the changes that the handler makes to it.
#[derive(Clone, Debug)]
pub struct Request {
    view: View<'static>,
    headers: Headers,
    path: Option<String>,
    host: Option<String>,
}

impl Request {
    pub(crate) fn new(view: View<'static>) -> Self {
        Self { view, headers: Headers::new(view), path: None, host: None }
    }

    /// Method.
    pub fn method(&self) -> Method {
        Method(self.view.method())
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.view.flags() & flags::TLS == 0 { "http" } else { "https" }
    }

    /// Host in normal form, without port, as received.
    pub fn host(&self) -> &'static str {
        self.view.host()
    }

    /// Port of the authority.
    pub fn port(&self) -> u16 {
        self.view.port()
    }

    /// Path as received, without query.
    pub fn path(&self) -> &'static str {
        self.view.path()
    }

    /// Query without its question mark.
    pub fn query(&self) -> Option<&'static str> {
        self.view.query()
    }

    /// The URL as received; a port that the scheme implies is left out.
    pub fn url(&self) -> String {
        let mut url = format!("{}://{}", self.scheme(), self.host());
        let implied = if self.scheme() == "https" { 443 } else { 80 };
        if self.port() != implied {
            url.push_str(&format!(":{}", self.port()));
        }
        url.push_str(self.path());
        if let Some(query) = self.query() {
            url.push('?');
            url.push_str(query);
        }
        url
    }

    /// Length of the body where it is known.
    pub fn body_bytes(&self) -> Option<u64> {
        self.view.body_bytes()
    }

    /// Header fields.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Header fields, to be changed.
    pub fn headers_mut(&mut self) -> &mut Headers {
        &mut self.headers
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// Sends the request to another path and query of the same host; policy judges it again.
    ///
    /// # Panics
    /// Where the text does not begin with `/`.
    #[track_caller]
    pub fn set_path(&mut self, path_and_query: impl Into<String>) {
        let path = path_and_query.into();
        assert!(path.starts_with('/'), "{path:?} is not a path");
        self.path = Some(path);
    }

    /// Sends the request to another `host` or `host:port`; policy judges it again.
    pub fn set_host(&mut self, authority: impl Into<String>) {
        self.host = Some(authority.into());
    }

    /// Lets the request go on, with the changes made.
    pub fn forward(self) -> Outcome {
        Outcome::forward(self)
    }

    pub(crate) fn write(&self, list: &mut ActionWriter) {
        self.headers.write(list);
        if let Some(path) = &self.path {
            list.path(path);
        }
        if let Some(host) = &self.host {
            list.host(host);
        }
    }
}
