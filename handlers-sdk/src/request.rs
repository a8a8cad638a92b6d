//! The request that a handler judges.

use handlers_sdk_abi::code::BodyUse;
use handlers_sdk_abi::view::flags;
use handlers_sdk_abi::{ActionWriter, View};

use crate::body::{Chunk, Watch};
use crate::call;
use crate::headers::Headers;
use crate::method::Method;
use crate::outcome::Outcome;
use crate::response::Sent;

/// The head of a request that left a sandbox, and the changes that the handler makes to it.
#[derive(Clone, Debug)]
pub struct Request {
    view: View<'static>,
    headers: Headers,
    path: Option<String>,
    host: Option<String>,
    body: Option<BodyUse>,
}

impl Request {
    pub(crate) fn new(view: View<'static>) -> Self {
        Self { view, headers: Headers::new(view), path: None, host: None, body: None }
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

    /// Whether it asks for a WebSocket, whose bytes no handler sees.
    pub fn is_upgrade(&self) -> bool {
        self.view.flags() & flags::UPGRADE != 0
    }

    /// Looks at each piece of the body before it goes on. An outcome that it answers instead ends the exchange: the
    /// upstream has a part by then, which never looks whole, and the sandbox is told the outcome where its answer has
    /// not begun.
    ///
    /// The handler names the hook `requestBody`. A request without a body has no pieces.
    pub fn look_at_body(&mut self, look: impl FnMut(Chunk<'_>) -> Result<(), Outcome> + 'static) {
        self.watch(Watch::Look(Box::new(look)));
    }

    /// Gives something else for each piece of the body: what `change` appends. Nothing goes on that it does not give,
    /// and the length is not told before the end. It may hold bytes back until a later piece, the last one at the
    /// latest.
    ///
    /// The handler names the hook `requestBody`. A request without a body has no pieces.
    pub fn change_body(
        &mut self,
        change: impl FnMut(Chunk<'_>, &mut Vec<u8>) -> Result<(), Outcome> + 'static,
    ) {
        self.watch(Watch::Change(Box::new(change)));
    }

    fn watch(&mut self, watch: Watch) {
        self.body = Some(watch.wants());
        call::watch_up(watch);
    }

    /// Sends the request, with the changes made, and waits for the head of the answer. Its body goes up meanwhile.
    ///
    /// The handler names the hook `response`. Where no answer comes, or the request is refused, it is never called
    /// again.
    pub fn send(self) -> Sent {
        Sent::new(self)
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
        if let Some(wanted) = self.body {
            list.body(wanted);
        }
    }
}
