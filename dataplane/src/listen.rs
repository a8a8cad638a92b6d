//! How connections come in: explicit proxy, passed listeners, redirected traffic, synthetic DNS.
