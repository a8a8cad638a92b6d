//! The contract between the handler host and a guest: exports, events, the request view, actions.
