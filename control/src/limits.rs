//! Every bound of control, each with what breaks when it is larger and when it is smaller.

use std::time::Duration;

/// Changes remembered for planes that come back. Larger: memory and the log table grow. Smaller: a plane that was
/// away briefly is sent everything again.
pub const CHANGES_KEPT: usize = 65_536;
/// Jobs waiting for the writer. Larger: a slow disk lets callers pile up. Smaller: bursts wait at the door.
pub const WRITER_QUEUE_MAX: usize = 256;
/// Rows in one frame. Larger: a frame of rows of the largest size, 132 KiB, passes the frame bound. Smaller: more
/// frames.
pub const ROWS_PER_FRAME: usize = 32;
/// Time between two renewals of a plane's lease. Larger: short leases cannot be held. Smaller: idle planes cost.
pub const RENEW_EVERY: Duration = Duration::from_millis(400);
/// A plane that has not acknowledged what it was sent this long ago is not renewed. Larger: a plane that cannot apply
/// keeps forwarding by old policy. Smaller: a long snapshot costs the lease.
pub const ACK_TIME_MAX: Duration = Duration::from_secs(5);
/// Added to a lease before a silent plane counts as fenced, for clocks that run apart. Larger: lock-downs answer
/// later. Smaller: clocks must agree better than they do.
pub const FENCE_SLACK: Duration = Duration::from_millis(250);
/// How long `?wait=applied` waits by itself. Larger: callers hang. Smaller: healthy but slow planes are named.
pub const WAIT_DEFAULT: Duration = Duration::from_secs(5);
/// The longest wait that a caller may ask for. Larger: connections pile up. Smaller: long leases cannot be waited for.
pub const WAIT_MAX: Duration = Duration::from_secs(120);
/// Life of a join token. Larger: a lost token is worth more. Smaller: provisioning takes longer than it lives.
pub const JOIN_TOKEN_TIME: Duration = Duration::from_secs(3_600);
/// Join tokens outstanding. Larger: the table can be filled. Smaller: fleets cannot be prepared at once.
pub const JOIN_TOKENS_MAX: usize = 4_096;
/// Time for a peer's first message. Larger: silent peers hold state. Smaller: bad links cannot join.
pub const HELLO_TIME: Duration = Duration::from_secs(10);
/// Silence after which a link counts as lost. Larger: a dead plane is named late. Smaller: brief stalls cut it.
pub const LINK_IDLE_TIME: Duration = Duration::from_secs(10);
/// Time that a plane has to seal the pool's master for one that joins. Larger: planes that hang make the joining one
/// give up. Smaller: far or busy planes are passed over.
pub const SEAL_TIME: Duration = Duration::from_secs(4);
/// Planes that are asked for the pool's master in one join. Larger: the joining plane gives up before the last has had
/// its time. Smaller: a few that hang keep others from joining.
pub const HOLDERS_ASKED_MAX: usize = 4;
/// Planes that a refused join names. Larger: the reason is cut off. Smaller: an operator must look for one that lives.
pub const HOLDERS_NAMED_MAX: usize = 8;
/// Planes connected at once. Larger: more memory for peers. Smaller: fleets do not fit.
pub const PLANES_MAX: usize = 4_096;
/// Renewals that a plane may ask for beyond two in each [`RENEW_EVERY`]. Larger: a faulty plane keeps control busy.
/// Smaller: one that was stopped and catches up is taken for faulty.
pub const RENEWALS_AHEAD_MAX: u64 = 64;
/// Certificates of sandboxes' authorities that one commit takes. Larger: one revision grows. Smaller: a plane that
/// starts waits for the disk again and again.
pub const CERTIFICATES_PER_COMMIT: usize = 256;
/// Time to tell planes that control ends. Larger: control hangs at its end. Smaller: far planes wait out the silence.
pub const FAREWELL_TIME: Duration = Duration::from_secs(1);
/// Messages waiting to be written to one plane. Larger: a slow plane costs memory. Smaller: its reader waits.
pub const OUTGOING_MAX: usize = 64;
/// Bytes of a request's body. Larger: one call fills memory. Smaller: modules of handlers do not fit.
pub const BODY_BYTES_MAX: usize = 16 << 20;
/// Bytes of a body that sets many rows; it carries modules. Larger: one call fills memory. Smaller: handlers of a whole
/// gateway need several calls.
pub const APPLY_BYTES_MAX: usize = 64 << 20;
/// Rows that one call sets. Larger: one revision takes long to check and to send. Smaller: fleets that are written in
/// files need calls in a row.
pub const APPLY_ROWS_MAX: usize = 10_000;
/// Rejections of handlers remembered per plane. Larger: a hostile plane fills memory. Smaller: a cause is lost.
pub const REJECTIONS_MAX: usize = 32;
/// Questions of one plane that are open at once. Larger: a hostile plane fills memory, with up to 3 KiB each. Smaller
/// than what planes ask: a busy plane loses its link.
pub const QUESTIONS_PER_PLANE_MAX: usize = 4_096;
/// Questions of which is remembered how they were closed. Larger: memory. Smaller: who answers late is told that there
/// never was such a question.
pub const QUESTIONS_CLOSED_KEPT: usize = 1_024;
/// Seconds for which an answer may be kept. Larger: what should be policy hides among answers. Smaller: people answer
/// the same thing again and again.
pub const ANSWER_SECONDS_MAX: u64 = 30 * 86_400;
/// Longest pause between two looks for answers that have ended. Larger: a clock that was set forward is noticed late.
/// Smaller: control wakes for nothing.
pub const ANSWERS_LOOK_PAUSE: Duration = Duration::from_secs(30);
/// Sandboxes from whose rows one commit removes answers that have ended. Larger: one revision grows. Smaller: many that
/// end together take several.
pub const ENDED_PER_COMMIT: usize = 256;
/// Pause before a plane that died is started again; doubled at each death up to the bound. Larger: traffic waits.
/// Smaller: a plane that cannot start takes a core.
pub const RESTART_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause before a restart. Larger: traffic waits. Smaller: a plane that cannot start takes a core.
pub const RESTART_PAUSE_MAX: Duration = Duration::from_secs(5);
/// Sandboxes that one lock-down may name. Larger: one revision passes the frame bound. Smaller: fleets need calls
/// in a row.
pub const LOCKDOWN_MAX: usize = 2_000;
/// Bytes of an answer that the command takes. Larger: a faulty peer fills memory. Smaller: long lists are cut off.
pub const ANSWER_BYTES_MAX: usize = 256 << 20;
/// A plane that ran this long counts as healthy: its next restart does not wait. Larger: rare deaths add up to long
/// pauses. Smaller: one that dies soon after its start is started too often.
pub const PLANE_HEALTHY_TIME: Duration = Duration::from_secs(30);
/// Time that a plane has to end when asked. Larger: control hangs at its end. Smaller: requests are cut.
pub const PLANE_END_TIME: Duration = Duration::from_secs(10);

/// Sandboxes whose places are kept for the next plane on this machine. Larger: their listeners take the descriptors
/// of this process. Smaller: those beyond it must be attached anew when the plane was restarted.
pub const KEPT_SANDBOXES_MAX: usize = 100_000;

/// Time that a plane has to answer an attachment: it waits for policy and certificate itself. Larger: the command
/// hangs on a stuck plane. Smaller: an attachment that would be answered is given up.
pub const ATTACH_PATIENCE: Duration = Duration::from_secs(30);

/// Descriptors below which `outgate preflight` asks for more: two for each exchange, one for each idle connection.
/// Larger: machines that serve a hundred sandboxes well are told to change. Smaller: a fleet meets the bound unwarned.
pub const DESCRIPTORS_FEW: u64 = 16_384;

/// Descriptors below which a plane serves nobody well. Larger: small machines are refused. Smaller: a few idle
/// connections stop all others.
pub const DESCRIPTORS_MIN: u64 = 1_024;

/// Certificates that `outgate preflight` signs to know the time of one. Larger: the answer waits. Smaller: one
/// interruption spoils the figure.
pub const MINTS_MEASURED: usize = 32;

/// Time of one certificate above which it is called slow. Larger: a slow machine is called fine. Smaller: a busy one is
/// called slow.
pub const MINT_SLOW: Duration = Duration::from_micros(500);

/// Bytes of one file of policies. Larger: a file that was named by mistake fills memory. Smaller: fleets that are
/// written in one file do not fit.
pub const DOCUMENT_FILE_BYTES_MAX: usize = 32 << 20;

/// Levels of values inside each other in a file of policies. Larger: the stack of the reader may end. Smaller:
/// parameters of handlers do not fit.
pub const DOCUMENT_DEPTH_MAX: usize = 64;

/// Values of one file of policies, copies through YAML's anchors too. Larger: a few lines of anchors fill memory.
/// Smaller: large fleets do not fit one file.
pub const DOCUMENT_NODES_MAX: usize = 500_000;

/// Bytes that a file system in memory must have in all for the gateways of single commands to lie there: store,
/// handlers, records of half a million requests. Larger: small machines wait for their disks. Smaller: many records
/// fill it, and then nothing is let through any more.
pub const GATEWAY_MEMORY_MIN: u64 = 256 << 20;
/// Bytes below which a disk counts as full. Larger: a small disk that does is blamed for other faults. Smaller: the
/// store asks for more at once, and fails on a disk that has some left.
pub const DISK_FREE_MIN: u64 = 256 << 10;

/// Leases that are held at once. Larger: their connections take the descriptors of this process. Smaller: a machine of
/// many small runs needs several gateways.
pub const LEASES_MAX: usize = 4_096;
