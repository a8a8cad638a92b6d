//! HTTP/1.1: strict heads over the receive buffer, bodies by chunk, the exchange.
