//! Who asks, and what the operator told the handler.

use std::rc::Rc;

use handlers_sdk_abi::View;

use crate::operation::{Kv, Pending, sleep};

/// The sandbox that a request left, and the handler's parameters.
#[derive(Clone, Debug)]
pub struct Context<Params = ()> {
    view: View<'static>,
    params: Rc<Params>,
}

/// The parameters' type of a context; what the attribute needs to read it from a signature.
#[doc(hidden)]
pub trait ContextOf {
    /// The parameters.
    type Params;
}

impl<Params> ContextOf for Context<Params> {
    type Params = Params;
}

impl<Params> Context<Params> {
    pub(crate) fn new(view: View<'static>, params: Rc<Params>) -> Self {
        Self { view, params }
    }

    /// The sandbox's id.
    pub fn container_id(&self) -> &'static str {
        self.view.container_id()
    }

    /// The sandbox's template.
    pub fn class_name(&self) -> &'static str {
        self.view.class_name()
    }

    /// A label of the sandbox.
    pub fn label(&self, name: &str) -> Option<&'static str> {
        self.labels().find(|label| label.0 == name).map(|label| label.1)
    }

    /// Names and values of the sandbox's labels.
    pub fn labels(&self) -> impl Iterator<Item = (&'static str, &'static str)> + use<Params> {
        self.view.labels().map(|label| (label.name, label.value))
    }

    /// Host in normal form, without port.
    pub fn host(&self) -> &'static str {
        self.view.host()
    }

    /// Port of the authority.
    pub fn port(&self) -> u16 {
        self.view.port()
    }

    /// The name under which the operator published this handler.
    pub fn handler(&self) -> &'static str {
        self.view.handler()
    }

    /// Revision of the configuration that decided this request.
    pub fn revision(&self) -> u64 {
        self.view.revision()
    }

    /// Id of this request, as in its record.
    pub fn request_id(&self) -> &'static str {
        self.view.request_id()
    }

    /// Unix milliseconds at the beginning of this request.
    pub fn now_ms(&self) -> u64 {
        self.view.now_ms()
    }

    /// Random bytes of this request.
    pub fn random(&self) -> [u8; 16] {
        self.view.random()
    }

    /// What the operator gave with `params`.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// A key-value store that the operator bound under a name.
    pub fn kv(&self, store: &str) -> Kv {
        Kv::new(store)
    }

    /// Waits.
    pub fn sleep(&self, ms: u32) -> Pending {
        sleep(ms)
    }
}
