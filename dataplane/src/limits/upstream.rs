//! Bounds of names, of connections to upstreams, and of their reuse.

use std::time::Duration;

/// Addresses of one name that are kept. Larger: a hostile zone makes one connection try for minutes. Smaller: big
/// services lose spare addresses.
pub const ADDRESSES_MAX: usize = 16;
/// Aliases that are followed for one name. Larger: a zone makes us walk. Smaller: chains of content networks break.
pub const ALIASES_MAX: usize = 12;
/// Bytes of the hosts file. Larger: reading it at start takes memory for nothing. Smaller: block lists do not fit.
pub const HOSTS_FILE_BYTES_MAX: u64 = 8 << 20;
/// Names that one shard remembers. Larger: a sandbox that asks for random permitted names takes memory. Smaller:
/// busy shards ask again.
pub const NAME_CACHE_MAX: usize = 8_192;
/// Names that one shard asks for at once. Larger: sockets and memory run out. Smaller: bursts of new names are refused.
pub const LOOKUPS_MAX: usize = 512;
/// The shortest time for which an address is kept, whatever its zone says. Larger: a moved service is missed.
/// Smaller: a zone with no time to live costs a look-up per connection.
pub const POSITIVE_TTL_MIN: Duration = Duration::from_secs(1);
/// The longest time for which an address is kept. Larger: a moved service is missed for long. Smaller: more look-ups.
pub const POSITIVE_TTL_MAX: Duration = Duration::from_secs(300);
/// The longest time for which a missing name is kept (RFC 2308 §5 bounds it at hours). Larger: a name that was just
/// made stays missing. Smaller: misspelt names cost a look-up each time.
pub const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(30);
/// How long it is remembered that no server gave a usable answer (RFC 9520 §3.2 asks for 1 s at least). Larger: a name
/// stays out of reach when its servers are back. Smaller: names whose servers are dead cost a whole look-up each time.
pub const FAILURE_TTL: Duration = Duration::from_secs(1);
/// One try with one name server. Larger: a dead server delays every name. Smaller: far servers are never heard.
pub const NAME_SERVER_TIME: Duration = Duration::from_millis(1_500);
/// All tries for one name. Larger: a client waits for what will not come. Smaller: the last server is never asked.
pub const LOOKUP_TIME: Duration = Duration::from_secs(6);
/// Name servers that are asked. Larger: the time for all of them exceeds the client's patience. Smaller: no spare.
pub const NAME_SERVERS_MAX: usize = 4;
/// Wrong datagrams that one query bears before it gives up on the server. Larger: a forger gets more guesses at the
/// identifier. Smaller: a late answer to another query ends a good one.
pub const WRONG_ANSWERS_MAX: u32 = 16;
/// How much later than the addresses of one family those of the other may come (RFC 8305 §3 proposes 50 ms). Larger:
/// a server that is silent for one family delays every first connection. Smaller: its addresses are not spare.
pub const SECOND_FAMILY_TIME: Duration = Duration::from_millis(100);
/// Bytes of one answer of a name server over TCP. Larger: a hostile server fills memory, once per look-up. Smaller:
/// names with many signed addresses are never heard.
pub const NAME_ANSWER_BYTES_MAX: usize = 16 << 10;
/// Bytes of the system's list of name servers. Larger: reading it at start takes memory for nothing. Smaller: lists
/// with long remarks are refused.
pub const RESOLV_CONF_BYTES_MAX: u64 = 64 << 10;
/// One TCP connect to one address. Larger: a dead address delays its live neighbours. Smaller: a lost SYN (sent again
/// after 1 s and 3 s, RFC 6298 §5.7) fails a far upstream.
pub const CONNECT_TIME: Duration = Duration::from_secs(5);
/// How long a connect to one address is alone before the next address is tried beside it (RFC 8305 §8 proposes it).
/// Larger: a dead address delays its live neighbours. Smaller: far upstreams are connected to twice.
pub const CONNECT_STAGGER: Duration = Duration::from_millis(250);
/// Connects to addresses of one host at once. Larger: one request makes a burst of packets to many machines. Smaller:
/// several dead addresses delay the live one behind them.
pub const CONNECTS_AT_ONCE_MAX: usize = 4;
/// All tries of one host together, handshakes included. Larger: clients give up before they are told. Smaller: the
/// second address of a host whose first is dead is never tried.
pub const DIAL_TIME: Duration = Duration::from_secs(25);
/// Sets of private roots and client certificates for which a shard keeps TLS settings, each with its resumable
/// sessions. Larger: sandboxes with many roots fill memory. Smaller: roots are parsed again and sessions are lost.
pub const ROOTS_KEPT_MAX: usize = 64;
/// How long an idle upstream connection is kept. Larger: upstreams close it first (60 s and 75 s are common) and a
/// request meets the end of it. Smaller: more handshakes.
pub const UPSTREAM_IDLE_TIME: Duration = Duration::from_secs(50);
/// Idle upstream connections that a sandbox keeps however few connections it has open itself; with more open it keeps
/// as many as these. Larger: many sandboxes hold descriptors for nothing. Smaller: those that open a connection for
/// each request make their upstreams' anew too.
pub const UPSTREAM_IDLE_SHARE: usize = 32;
/// Idle upstream connections of one shard. Larger: descriptors and TLS sessions (tens of KiB each) are held for
/// nothing. Smaller: busy shards connect anew.
pub const UPSTREAM_IDLE_MAX: usize = 2_048;
/// From the connection to a proxy until it has connected to the host. Larger: a proxy that is stuck holds the request
/// for as long. Smaller: hosts that are slow to answer the proxy's SYN fail.
pub const PROXY_TIME: Duration = Duration::from_secs(10);
/// Bytes of what a proxy says before it relays. Larger: a broken proxy fills memory. Smaller: proxies that explain
/// themselves in pages are not understood.
pub const PROXY_ANSWER_BYTES_MAX: usize = 8 << 10;
/// Names of an upstream's certificate that a refusal tells. Larger: the certificates of big services fill the record.
/// Smaller: the one that was meant is not among them.
pub const CERTIFICATE_NAMES_SHOWN: usize = 6;
