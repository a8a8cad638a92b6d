//! Every bound of the plane, each with what breaks when it is larger and when it is smaller.

use std::time::Duration;

mod http2;
mod redact;
mod share;
mod tcp;
mod upstream;

pub use http2::*;
pub use redact::*;
pub use share::*;
pub use tcp::*;
pub use upstream::*;

/// Bytes of a plane's name. Larger: records and certificates swell. Smaller: host names do not fit.
pub const PLANE_NAME_BYTES_MAX: usize = 128;
/// Shards of one plane. Larger: locked memory for their rings runs out. Smaller: big machines idle.
pub const SHARDS_MAX: usize = 256;

/// From the first byte of a request to the end of its head. Larger: slow heads hold connections. Smaller: bad
/// mobile links fail.
pub const HEAD_TIME: Duration = Duration::from_secs(20);
/// A TLS handshake, each leg. Larger: half-open handshakes pile up. Smaller: slow clients fail.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(15);
/// An idle client connection between requests. Larger: idle connections pile up. Smaller: clients reconnect often.
pub const IDLE_TIME: Duration = Duration::from_secs(900);
/// Silence of an upstream while its answer is due. Larger: a dead upstream holds its client. Smaller: models that
/// think for minutes are cut off.
pub const UPSTREAM_SILENCE: Duration = Duration::from_secs(900);
/// Silence within a body, in either direction. Larger: a stalled peer holds both legs. Smaller: streams that say
/// something every few minutes are cut off.
pub const BODY_SILENCE: Duration = Duration::from_secs(900);
/// Connections of one sandbox. Larger: one sandbox takes the plane's descriptors. Smaller: browsers and package
/// managers stall.
pub const SANDBOX_CONNECTIONS_MAX: usize = 4096;
/// Connections waiting to be handed to another shard. Larger: a stopped shard hoards descriptors. Smaller: bursts
/// are refused.
pub const HANDOVER_QUEUE_MAX: usize = 1024;
/// Bytes not yet sent that the kernel holds for one connection beyond what the peer acknowledged
/// (`TCP_NOTSENT_LOWAT`). Larger: more leaves after a lease ended in a stopped process. Smaller: bulk slows down.
pub const NOT_SENT_BYTES_MAX: u32 = 64 << 10;

/// Bytes of a host name as text (RFC 1035 §2.3.4). Larger: no resolver takes it. Smaller: valid names are refused.
pub const HOST_BYTES_MAX: usize = 253;
/// Bytes of one label of a host name (RFC 1035 §2.3.4). Larger: no resolver takes it. Smaller: valid names are refused.
pub const LABEL_BYTES_MAX: usize = 63;

/// Bytes of a sandbox's identifier. Larger: records and certificate subjects swell. Smaller: identifiers of
/// orchestrators do not fit.
pub const SANDBOX_ID_BYTES_MAX: usize = 128;
/// Places of one plane to which sandboxes are attached. Larger: a runaway orchestrator fills memory. Smaller: the
/// 100,000 sandboxes of a plane, each with a few places, do not fit.
pub const ATTACHMENTS_MAX: usize = 400_000;
/// Bytes of a `Proxy-Authorization` value. Larger: strangers make the plane decode and hash more. Smaller: long
/// tokens do not fit.
pub const PROXY_CREDENTIALS_BYTES_MAX: usize = 1024;
/// A policy lease that names no length. Larger: a sandbox of `deny` outlives control by that. Smaller: a restart of
/// control refuses traffic.
pub const LEASE_TIME: Duration = Duration::from_secs(10);
/// Bytes of records that wait for the writer. Larger: a stopped disk hoards memory. Smaller: a short stall of the disk
/// refuses traffic; a busy core writes 20 MiB a second.
pub const RECORDS_QUEUED_BYTES_MAX: usize = 32 << 20;
/// Bytes of one text in a record. Larger: a hostile host name or path fills the disk. Smaller: real ones are cut.
pub const RECORD_TEXT_BYTES_MAX: usize = 2_048;
/// How long the writer of records gathers after the first. Larger: a plane that is killed loses more of them. Smaller:
/// more wake-ups and system calls.
pub const RECORD_GATHER_TIME: Duration = Duration::from_millis(2);
/// Bytes of room for records that the writer keeps. Larger: memory of a burst stays. Smaller: it is asked for again and
/// again under load.
pub const RECORD_BATCH_BYTES_KEPT: usize = 256 << 10;
/// Bytes of a detail or remedy in a refusal. Larger: a hostile path makes long answers. Smaller: patterns are cut.
pub const REFUSAL_TEXT_BYTES_MAX: usize = 512;
// ---- Names that sandboxes ask for (`listen`).

/// Names of one sandbox that have a stand-in address. Larger, and a sandbox that asks for random names takes more
/// than about 1 MiB; smaller, and a crawler loses names whose connections are still to come.
pub const SYNTHETIC_NAMES_MAX: usize = 2_048;
/// Seconds for which a synthetic answer may be kept. Larger, and a client dials a stand-in that was forgotten;
/// smaller, and clients ask again for every connection.
pub const SYNTHETIC_TTL_S: u32 = 60;
/// Bytes of one query over TCP. A query is a name of at most 255 bytes and options. Larger, and a sandbox makes us
/// hold more per connection; smaller, and queries with client options are cut.
pub const DNS_QUERY_BYTES_MAX: usize = 4_096;
/// Connections for queries that one listener serves at once. Larger, and a sandbox holds more descriptors; smaller,
/// and a client that keeps one open per thread waits.
pub const DNS_CONNECTIONS_MAX: usize = 32;
/// Seconds that a connection for queries may be silent (RFC 7766 §6.2.3 asks for seconds). Larger, and idle ones take
/// the places of others; smaller, and clients connect anew for each query.
pub const DNS_IDLE_S: u64 = 10;
/// Queries per second that one sandbox may ask. Larger, and a flood takes the shard's time from others (an answer
/// costs microseconds); smaller, and a busy crawler's look-ups time out.
pub const DNS_QUERIES_PER_S: u32 = 2_000;
/// Pending connections of a listener. Larger than `net.core.somaxconn` has no effect; smaller, and bursts of
/// connections are answered late, after the client's retry.
pub const LISTEN_BACKLOG: i32 = 4_096;

// The link.

/// Messages waiting to be sent to control. Larger: a lost link lets them pile up. Smaller: certificates of many new
/// sandboxes are offered again and again.
pub const LINK_OUTGOING_MAX: usize = 1024;
/// Time to connect to control. Larger: a dead address is tried longer. Smaller: far controls are not reached.
pub const LINK_CONNECT_TIME: Duration = Duration::from_secs(5);
/// Time for the answer to a join, for which control may have to ask other planes. Larger: a control that hangs is
/// tried again late. Smaller: the answer is lost when those planes are slow, and the plane's name is taken.
pub const LINK_JOIN_TIME: Duration = Duration::from_secs(20);
/// Answers to control that wait to be written. Larger: memory for nothing. Smaller: reading stops more often.
pub const LINK_ANSWERS_MAX: usize = 16;
/// Pause before the first attempt after a loss; doubled by each that fails. Larger: changes arrive late after a
/// restart of control. Smaller: a control that is down is hammered.
pub const LINK_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause between attempts. Larger: changes arrive late after a long loss. Smaller: a fleet hammers control.
pub const LINK_PAUSE_MAX: Duration = Duration::from_secs(2);
/// Time for an envelope that a revision names. Larger: a stuck control holds the link. Smaller: large handlers over
/// slow links never arrive.
pub const LINK_ARTEFACT_TIME: Duration = Duration::from_secs(60);
/// Renewals of the lease without an answer. Larger: memory for nothing. Smaller: slow answers are taken for faults.
pub const LINK_RENEWALS_MAX: usize = 1024;
/// Shortest time between two renewals, whatever control says. Larger: short leases cannot be held. Smaller: idle links
/// cost.
pub const LINK_RENEW_MIN: Duration = Duration::from_millis(50);
/// Longest time between two renewals, whatever control says. Larger: a lease ends in between. Smaller: control cannot
/// spare a large fleet's renewals.
pub const LINK_RENEW_MAX: Duration = Duration::from_secs(10);
/// Versions of handlers that did not load, remembered for the next control. Larger: memory. Smaller: an operator does
/// not see after a restart why a handler does not run.
pub const LINK_REJECTIONS_MAX: usize = 1024;
/// Frames that wait to become a revision. Larger: memory, up to 8 MiB each. Smaller: the stream stops more often.
pub const LINK_FRAMES_MAX: usize = 4;
/// Time to say why the link is closed. Larger: the next attempt comes later. Smaller: far controls are not told.
pub const LINK_CLOSE_TIME: Duration = Duration::from_millis(500);
/// Rows of one revision. Larger: control can fill the plane's memory. Smaller: fleets do not fit.
pub const LINK_ROWS_MAX: usize = 2_000_000;
/// Silence after which the link counts as lost. Larger: a dead control is noticed late. Smaller: brief stalls cut it.
pub const LINK_SILENCE: Duration = Duration::from_secs(10);
/// Pause between signs of life. Larger: silence is reached without a fault. Smaller: idle links cost.
pub const LINK_KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Memory of one handler instance in bytes, a multiple of 64 KiB. Larger: restoring it after each request costs more
/// (1.3 µs per 64 KiB), and a shard's reservation grows. Smaller: handlers that parse large documents fail.
pub const HANDLER_MEMORY_BYTES: usize = 1 << 20;
/// Live handler instances of one shard. Larger: the reservation takes address space and idle instances take memory.
/// Smaller: rarely used handlers are made again for each request.
pub const HANDLER_INSTANCES_MAX: usize = 512;
/// Turns of a handler per event: function entries, loop turns and bulk operations. Larger: a loop is stopped later by
/// what is repeatable. Smaller: parsers of real documents are stopped.
pub const HANDLER_FUEL: i64 = 2_000_000;
/// Time of a handler per event on its shard's processor. Larger: everybody else on the shard waits that long.
/// Smaller: handlers that scan large heads are stopped.
pub const HANDLER_TIME: Duration = Duration::from_millis(5);
/// Stack of a handler in bytes. Larger: runaway recursion takes milliseconds to end and stacks take memory. Smaller:
/// recursive parsers fail.
pub const HANDLER_STACK_BYTES: usize = 256 << 10;
/// Entries of one table of a handler. Larger: each instance allocates them. Smaller: guests with many virtual calls
/// do not load.
pub const HANDLER_TABLE_ENTRIES_MAX: u32 = 16 << 10;
/// Bytes of instances kept ready for parameter sets, per shard. Larger: memory of the plane. Smaller: parameters are
/// parsed again for each request.
pub const HANDLER_SNAPSHOT_BYTES_MAX: usize = 32 << 20;
/// Events whose fuel a handler has for one exchange in all, beside [`HANDLER_FUEL_PER_BYTE`]. Larger: a peer that sends
/// a byte at a time makes a handler take more of the shard. Smaller: handlers of streams of small messages are stopped.
pub const HANDLER_EXCHANGE_EVENTS: i64 = 64;
/// Turns that each byte of a body adds to what a handler has for its exchange. Larger: a slow handler takes more of the
/// shard. Smaller: handlers that parse what they see are stopped in long bodies.
pub const HANDLER_FUEL_PER_BYTE: i64 = 256;
/// Bytes of what handlers remember of one sandbox's open exchanges, 64 KiB each for a usual one. Larger: a sandbox fills
/// the shard's share. Smaller: agents with many streams at once are refused.
pub const HANDLER_KEPT_SANDBOX_BYTES_MAX: usize = 32 << 20;
/// The same of all sandboxes of a shard. Larger: memory of the plane. Smaller: busy shards refuse what their sandboxes
/// may have.
pub const HANDLER_KEPT_SHARD_BYTES_MAX: usize = 512 << 20;
/// Lines of a handler's log that the record of one exchange keeps. Larger: a handler that writes about each chunk fills
/// the disk. Smaller: a trail of several events is cut.
pub const HANDLER_LOG_LINES_MAX: usize = 64;
/// Bytes of one head, request or answer. Larger: waiting heads fill memory. Smaller: big cookies and tokens fail.
pub const HEAD_BYTES_MAX: usize = 64 << 10;
/// Fields of one head. Larger: many tiny fields cost more than their bytes. Smaller: real browsers are refused.
pub const HEAD_FIELDS_MAX: usize = 100;
/// Bytes of a request target (RFC 9112 §3 asks for 8,000 at least). Larger: patterns and records grow with it.
/// Smaller: signed URLs are refused.
pub const TARGET_BYTES_MAX: usize = 16 << 10;
/// Bytes of a method. Larger: records swell. Smaller: registered methods are refused.
pub const METHOD_BYTES_MAX: usize = 32;
/// Bytes of chunk extensions of one body beyond the bytes that it carried so far. Larger: a body of extensions costs
/// time and carries nothing. Smaller: uploads of small chunks, each with a signature, fail.
pub const CHUNK_EXTENSION_BYTES_MAX: u64 = 16 << 10;
/// Bytes of one chunk line. Larger: as above. Smaller: chunk signatures do not fit.
pub const CHUNK_LINE_BYTES_MAX: usize = 1024;
/// Bytes of all trailers of one body. Larger: they are gathered, so memory. Smaller: gRPC details do not fit.
pub const TRAILER_BYTES_MAX: usize = 16 << 10;
/// Trailers of one body. Larger: as above. Smaller: gRPC metadata does not fit.
pub const TRAILER_FIELDS_MAX: usize = 64;
/// How far before their making certificates begin. Larger: a stolen old clock is believed longer. Smaller: sandboxes
/// whose clocks are slow refuse fresh certificates.
pub const CERTIFICATE_BACKDATE: Duration = Duration::from_secs(86_400);
/// Life of a leaf. Larger: a leaf outlives changes of the rules for clients that pin. Smaller: minting shows.
pub const LEAF_LIFE: Duration = Duration::from_secs(7 * 86_400);
/// Age at which a cached leaf is minted anew. Larger (up to its life): long connections see it end. Smaller: minting
/// shows.
pub const LEAF_AGE_MAX: Duration = Duration::from_secs(6 * 86_400);
/// Leaves kept per sandbox, about 1.2 KiB each. Larger: a sandbox that asks for random names fills memory. Smaller:
/// ordinary crawling mints over and over, 18 µs each.
pub const LEAVES_PER_SANDBOX_MAX: usize = 64;
/// Bytes of a sandbox's name in the subject of its authority. Larger: the subject passes 64 characters, which strict
/// clients refuse (RFC 5280 appendix A). Smaller: people cannot tell authorities apart.
pub const SANDBOX_NAME_IN_SUBJECT_BYTES_MAX: usize = 38;
/// Bytes of a ClientHello with what came behind it. Larger: half-sent hellos fill memory. Smaller: post-quantum key
/// shares (1.8 KiB) and large session tickets do not fit.
pub const HELLO_BYTES_MAX: usize = 16 << 10;
/// Bytes received and not yet understood by TLS: one record (16,645), or a certificate chain over several records.
/// Larger: a peer that never ends a message fills memory. Smaller: long certificate chains of upstreams fail.
pub const TLS_PARTIAL_BYTES_MAX: usize = 96 << 10;
/// Plain bytes that are encrypted before they are sent on. Larger: a slow peer makes us hold more of what was not
/// sent. Smaller: more system calls for bulk.
pub const TLS_SEND_STEP_BYTES: usize = 64 << 10;
/// Head and first body bytes up to this sum share one record. Larger: copying costs more than a second record's 22
/// bytes. Smaller: small answers take two records. One record holds at most 16 KiB (RFC 8446 §5.1).
pub const TLS_JOINED_BYTES_MAX: usize = 16 << 10;
/// Encrypted bytes that wait for the socket. Larger: a peer that makes TLS answer and does not read fills memory.
/// Smaller: one step of sending does not fit.
pub const TLS_OUTBOX_BYTES_MAX: usize = 256 << 10;
/// Output buffers kept by a shard for reuse. Larger: memory stays taken after a burst. Smaller: each send allocates.
pub const TLS_SCRATCH_BUFFERS_MAX: usize = 64;
/// Bytes of an output buffer that is worth keeping. Larger: after bulk the shard holds much memory. Smaller: heads
/// allocate again.
pub const TLS_SCRATCH_BYTES_MAX: usize = 20 << 10;
/// TLS sessions to upstreams that may be resumed, per set of roots. Larger: memory, about 1 KiB each. Smaller: more
/// full handshakes, 160 µs each.
pub const UPSTREAM_SESSIONS_MAX: usize = 1024;
/// PEM bytes of one host's own roots. Larger: a configuration fills memory on each shard. Smaller: bundles of
/// companies do not fit.
pub const UPSTREAM_ROOTS_BYTES_MAX: usize = 1 << 20;

/// Received buffers that wait for a connection that does not read. Larger: slow readers drain the pool. Smaller: the
/// receive is armed again after almost each buffer.
pub const RECEIVED_QUEUE_MAX: usize = 4;
/// Bytes of a received piece that is copied out of the pool while that is scarce. Larger: memory of those who wait for
/// their turn. Smaller: they keep buffers from others.
pub const RECEIVED_COPY_BYTES_MAX: usize = 4 << 10;
/// Accepted connections that wait for the shard. Larger: a full shard takes connections that it cannot serve.
/// Smaller: bursts cost one accept operation each.
pub const ACCEPTED_QUEUE_MAX: usize = 64;
/// How long accepting pauses when descriptors have run out. Larger: clients wait although descriptors are free.
/// Smaller: the shard spins.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// Completions taken in one turn. Larger: timers and other threads' messages wait behind a burst, at about 10 µs for
/// each completion. Smaller: a busy shard enters the kernel more often.
pub const RING_TURN_MAX: usize = 256;
/// How long a ring that ends waits for the kernel. Larger: a stuck operation delays the end of the process. Smaller:
/// buffers are leaked although a moment more would have freed them.
pub const RING_SHUTDOWN_TIME: Duration = Duration::from_secs(1);
/// Bytes of one datagram. Larger: each receive clears more stack. Smaller: EDNS answers (RFC 6891 §6.2.5) are lost.
pub const DATAGRAM_BYTES_MAX: usize = 4096;
/// How long a first connection waits until control has stored the certificate of its sandbox's authority. Larger:
/// connections pile up while control is away. Smaller: a busy store fails first connections.
pub const AUTHORITY_TIME: Duration = Duration::from_secs(5);
/// Days for which the certificate of a sandbox's authority is valid. Larger: a lost key is trusted longer. Smaller:
/// long-lived sandboxes must fetch it again and again.
pub const CA_DAYS: u32 = 30;
/// Pause before the renewal of a certificate is offered to control again. Larger: one that was lost on the way, or that
/// control's clock found early, comes late. Smaller: control hears of each busy sandbox again and again.
pub const RENEWAL_OFFER_PAUSE: Duration = Duration::from_secs(600);
/// How long the last bytes of a client are read after we said that we are done. Larger: clients that never close hold
/// descriptors. Smaller: slow clients lose the end of an answer.
pub const LINGER_TIME: Duration = Duration::from_secs(2);
/// How often a shard drops what is idle for too long, and gives back memory that is free. Larger: dead upstream
/// connections hold descriptors, ended ones memory. Smaller: an idle shard wakes for nothing.
pub const SWEEP_TIME: Duration = Duration::from_secs(5);

// ---- Questions to people.

/// How long a request waits for a person where its policy does not say. Larger: clients give up before they are told.
/// Smaller: nobody can read the question and decide.
pub const ASK_TIME: Duration = Duration::from_secs(60);
/// Requests of one sandbox that wait for a person. Larger: a sandbox makes the plane hold more heads, each of up to
/// its own bound. Smaller: a program that opens a page's connections at once is refused some.
pub const PARKED_SANDBOX_MAX: usize = 32;
/// Questions that one sandbox has open. Larger: it floods the people who answer. Smaller: a program that speaks to many
/// hosts is refused before somebody could answer.
pub const QUESTIONS_SANDBOX_MAX: usize = 16;
/// Requests of one shard that wait for a person. Larger: many sandboxes fill memory with heads. Smaller: sandboxes
/// are refused for the patience of others.
pub const PARKED_SHARD_MAX: usize = 512;
/// Hosts about which one request is asked, where a handler sends it from one to the next. Larger: a handler that never
/// settles keeps people busy. Smaller: a redirecting handler cannot be asked about both hosts.
pub const QUESTIONS_REQUEST_MAX: usize = 2;
/// Pause between two looks whether a client whose body is not read has left. Larger: people are asked about what
/// nobody waits for. Smaller: each parked request costs more system calls.
pub const ASK_LOOK_PAUSE: Duration = Duration::from_millis(500);
/// Messages about questions that wait for the link, with a place kept for each question's end: half as many questions
/// are open at once on a plane. Larger: memory behind a slow link. Smaller: busy planes refuse to ask.
pub const LINK_QUESTIONS_MAX: usize = 2_048;

/// Longest file of a join token. A token has about 90 characters; larger only reads files that are none.
pub const JOIN_TOKEN_BYTES_MAX: usize = 4 << 10;
// ---- The local socket for `attach`.

/// Clients of the local socket at once, each with a thread. Larger: a runaway orchestrator takes threads. Smaller: one
/// that attaches many sandboxes at once waits.
pub const ATTACH_CLIENTS_MAX: usize = 32;
/// How long an attachment waits until every shard enforces the sandbox's policy. Larger: an orchestrator hangs on a
/// sandbox that control does not know. Smaller: a sandbox that was made a moment ago is refused.
pub const ATTACH_POLICY_TIME: Duration = Duration::from_secs(5);
/// How long a client of the local socket may take for one line, and for taking the answer. Larger: stuck clients hold
/// places. Smaller: a client that was descheduled is cut.
pub const ATTACH_LINE_TIME: Duration = Duration::from_secs(10);
/// Silence of a client between requests. Larger: forgotten connections hold places. Smaller: orchestrators connect
/// anew for each sandbox.
pub const ATTACH_IDLE_TIME: Duration = Duration::from_secs(300);
/// Sandboxes in one answer to `list`; the largest fit one line. Larger: the answer is refused by its own bound.
/// Smaller: more calls.
pub const ATTACH_LIST_MAX: usize = 16;
/// Source ranges of one sandbox. Larger: a list of sandboxes does not fit one answer. Smaller: a sandbox with several
/// interfaces of both families does not fit.
pub const ATTACH_SOURCES_MAX: usize = 16;
/// Names of listeners that many sandboxes share. Larger: a list does not fit one answer. Smaller: a host with many
/// bridges, each with its own rules, does not fit.
pub const SHARED_NAMES_MAX: usize = 24;
/// Bytes of the shortest proxy password that is taken; it is hashed once, so its length is its strength. Larger:
/// tokens of orchestrators do not fit. Smaller: it can be guessed.
pub const PROXY_PASSWORD_BYTES_MIN: usize = 16;
/// Bytes of the longest proxy password. Larger: it does not fit `Proxy-Authorization`. Smaller: long tokens do not.
pub const PROXY_PASSWORD_BYTES_MAX: usize = 512;
/// How long a shard may take to answer what another thread asks of it. Larger: a stuck shard holds the asker. Smaller:
/// a shard that is busy for a moment counts as stuck.
pub const SHARD_ANSWER_TIME: Duration = Duration::from_secs(5);
/// How long the keeper may be silent while it tells what it holds. Larger: a stuck keeper holds up the start. Smaller:
/// a keeper of many listeners on a busy machine is cut.
pub const KEEPER_TIME: Duration = Duration::from_secs(10);
/// Messages of one sandbox in a row that get no answer, before reading its queries pauses. Larger: a flood takes more
/// of the shard's time. Smaller: a few stray datagrams delay a query.
pub const DNS_UNANSWERED_MAX: u32 = 32;
/// That pause. Larger: queries behind a flood wait. Smaller: the flood takes more of the shard's time.
pub const DNS_PAUSE: Duration = Duration::from_millis(10);
/// Bytes of answers to pipelined queries that are collected before they are sent. Larger: a client that asks and does
/// not read fills memory. Smaller: more system calls.
pub const DNS_ANSWERS_BYTES_MAX: usize = 16 << 10;

/// Receive buffers of one kind that a shard's ring offers to the kernel at first. Larger: more memory is touched in
/// turn, and leaves the caches. Smaller: more bursts find none and widen the offer.
pub const BUFFERS_OFFERED: u16 = 16;
/// How long a plane whose keeper is gone may take to end; then it is killed. Larger: one that hangs holds up the plane
/// after it. Smaller: records of a busy plane are cut off.
pub const ORPHAN_TIME: Duration = Duration::from_secs(8);
/// How long a plane waits for the one before it to leave the state folder. Larger: two planes that were given one
/// folder by mistake are told late. Smaller: shorter than [`ORPHAN_TIME`], a plane that ends in order stops the next.
pub const STATE_FOLDER_TIME: Duration = Duration::from_secs(10);
/// Pause between two looks whether it has left. Larger: the next plane begins late. Smaller: more looks.
pub const STATE_FOLDER_PAUSE: Duration = Duration::from_millis(20);

/// Calls by which the usual time of a handler is taken for its author. Larger: the author waits. Smaller: the figure is
/// chance.
pub const TRIAL_CALLS_MAX: u32 = 10_000;
