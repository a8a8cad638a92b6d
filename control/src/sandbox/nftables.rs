//! The rules that hand every TCP connection to one listener: nf_tables messages over netlink, without `nft`.
//!
//! In the language of nft(8), once for each version of IP:
//!
//! ```text
//! table ip outgate {
//!   chain prerouting {
//!     type filter hook prerouting priority mangle; policy accept;
//!     ip daddr 127.0.0.0/8 accept     # the program's own servers
//!     ip daddr OWN accept
//!     tcp dport 53 accept             # a listener of its own
//!     meta l4proto tcp tproxy to :PORT
//!   }
//! }
//! ```
//!
//! Where the listener is gone, `tproxy` matches nothing and the kernel answers by itself: refused.

use std::io;
use std::net::IpAddr;

use rustix::net::netlink;

use super::netlink::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, Netlink, Writer};

/// Number of nf_tables among netfilter's families (linux/netfilter/nfnetlink.h).
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
const FAMILY_V4: u8 = 2;
const FAMILY_V6: u8 = 10;
const HOOK_PREROUTING: u32 = 0;
/// Before routing decides; where tproxy(8) is at home.
const PRIORITY_MANGLE: i32 = -150;
const ACCEPT: u32 = 1;
const REGISTER_VERDICT: u32 = 0;
const REGISTER_ONE: u32 = 1;
const TABLE: &str = "outgate";
const CHAIN: &str = "prerouting";
/// `IPPROTO_TCP`.
const TCP: u8 = 6;

/// Hands every TCP connection of this network namespace to the transparent listener on `port`, but for those to
/// loopback, to `own` addresses, and to the ports `except`.
///
/// # Errors
/// What the kernel says: `NotFound` or `Unsupported` where it has no nf_tables or no tproxy.
pub fn capture(port: u16, own: &[IpAddr], except: &[u16], v6: bool) -> io::Result<()> {
    let socket = Netlink::open(Some(netlink::NETFILTER))?;
    let (writer, asked) = rules(port, own, except, v6);
    socket.ask(writer.bytes(), asked)
}

/// One batch, which the kernel takes whole or not at all; and how many acknowledgements it asks for.
fn rules(port: u16, own: &[IpAddr], except: &[u16], v6: bool) -> (Writer, usize) {
    let mut batch = Batch { writer: Writer::default(), asked: 0 };
    batch.border(BATCH_BEGIN);
    let families = if v6 { &[FAMILY_V4, FAMILY_V6][..] } else { &[FAMILY_V4] };
    for family in families.iter().copied() {
        batch.chain(family);
        let mut loopback = vec![0; if family == FAMILY_V4 { 4 } else { 16 }];
        let mut mask = vec![0xff; loopback.len()];
        if family == FAMILY_V4 {
            loopback[0] = 127;
            mask = vec![0xff, 0, 0, 0];
        } else {
            loopback[15] = 1;
        }
        batch.accept_destination(family, &loopback, &mask);
        for address in own {
            let octets = match address {
                IpAddr::V4(address) if family == FAMILY_V4 => address.octets().to_vec(),
                IpAddr::V6(address) if family == FAMILY_V6 => address.octets().to_vec(),
                _ => continue,
            };
            batch.accept_destination(family, &octets, &vec![0xff; octets.len()]);
        }
        for port in except {
            batch.accept_port(family, *port);
        }
        batch.hand_over(family, port);
    }
    batch.border(BATCH_END);
    (batch.writer, batch.asked)
}

struct Batch {
    writer: Writer,
    asked: usize,
}

impl Batch {
    /// struct nfgenmsg: family, version, and for a border the number of the subsystem in network order.
    fn border(&mut self, kind: u16) {
        let number = SUBSYSTEM.to_be_bytes();
        self.writer.message(kind, 0, &[0, 0, number[0], number[1]], |_| {});
    }

    fn message(&mut self, kind: u16, flags: u16, family: u8, fill: impl FnOnce(&mut Writer)) {
        self.asked += 1;
        self.writer.message(kind, NLM_F_ACK | NLM_F_CREATE | flags, &[family, 0, 0, 0], fill);
    }

    /// The table and its only chain.
    fn chain(&mut self, family: u8) {
        self.message(NEW_TABLE, 0, family, |table| table.text(1, TABLE));
        self.message(NEW_CHAIN, 0, family, |chain| {
            chain.text(1, TABLE);
            chain.text(3, CHAIN);
            chain.nested(4, |hook| {
                hook.number(1, HOOK_PREROUTING);
                hook.attribute(2, &PRIORITY_MANGLE.to_be_bytes());
            });
            chain.number(5, ACCEPT);
            chain.text(7, "filter");
        });
    }

    fn rule(&mut self, family: u8, fill: impl FnOnce(&mut Expressions<'_>)) {
        self.message(NEW_RULE, NLM_F_APPEND, family, |rule| {
            rule.text(1, TABLE);
            rule.text(2, CHAIN);
            rule.nested(4, |list| fill(&mut Expressions(list)));
        });
    }

    /// A packet to these addresses goes its way.
    fn accept_destination(&mut self, family: u8, address: &[u8], mask: &[u8]) {
        const BASE_NETWORK: u32 = 1;
        // Where the destination stands (RFC 791 §3.1, RFC 8200 §3).
        let offset = if family == FAMILY_V4 { 16 } else { 24 };
        self.rule(family, |rule| {
            rule.load(BASE_NETWORK, offset, address.len());
            rule.masked(mask);
            rule.equals(address);
            rule.accept();
        });
    }

    /// A connection to this port goes its way.
    fn accept_port(&mut self, family: u8, port: u16) {
        const BASE_TRANSPORT: u32 = 2;
        self.rule(family, |rule| {
            rule.is_tcp();
            rule.load(BASE_TRANSPORT, 2, 2);
            rule.equals(&port.to_be_bytes());
            rule.accept();
        });
    }

    /// A connection goes to the listener on this port, whatever its destination.
    fn hand_over(&mut self, family: u8, port: u16) {
        self.rule(family, |rule| {
            rule.is_tcp();
            rule.expression("immediate", |immediate| {
                immediate.number(1, REGISTER_ONE);
                immediate.nested(2, |data| data.attribute(1, &port.to_be_bytes()));
            });
            rule.expression("tproxy", |tproxy| {
                tproxy.number(1, u32::from(family));
                tproxy.number(3, REGISTER_ONE);
            });
        });
    }
}

/// What a rule does, one after the other, with one register.
struct Expressions<'a>(&'a mut Writer);

impl Expressions<'_> {
    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Writer)) {
        self.0.nested(1, |element| {
            element.text(1, name);
            element.nested(2, fill);
        });
    }

    fn load(&mut self, base: u32, offset: u32, bytes: usize) {
        self.expression("payload", |payload| {
            payload.number(1, REGISTER_ONE);
            payload.number(2, base);
            payload.number(3, offset);
            payload.number(4, u32::try_from(bytes).unwrap_or(u32::MAX));
        });
    }

    fn masked(&mut self, mask: &[u8]) {
        self.expression("bitwise", |bitwise| {
            bitwise.number(1, REGISTER_ONE);
            bitwise.number(2, REGISTER_ONE);
            bitwise.number(3, u32::try_from(mask.len()).unwrap_or(u32::MAX));
            bitwise.nested(4, |data| data.attribute(1, mask));
            bitwise.nested(5, |data| data.attribute(1, &vec![0; mask.len()]));
        });
    }

    fn equals(&mut self, value: &[u8]) {
        const EQUAL: u32 = 0;
        self.expression("cmp", |compare| {
            compare.number(1, REGISTER_ONE);
            compare.number(2, EQUAL);
            compare.nested(3, |data| data.attribute(1, value));
        });
    }

    fn is_tcp(&mut self) {
        const KEY_PROTOCOL: u32 = 16;
        self.expression("meta", |meta| {
            meta.number(1, REGISTER_ONE);
            meta.number(2, KEY_PROTOCOL);
        });
        self.equals(&[TCP]);
    }

    fn accept(&mut self) {
        self.expression("immediate", |immediate| {
            immediate.number(1, REGISTER_VERDICT);
            immediate.nested(2, |data| data.nested(2, |verdict| verdict.number(1, ACCEPT)));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_whole_messages_and_counts_what_it_asks_for() {
        let own = ["192.0.2.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        for (v6, asked) in [(false, 6), (true, 12)] {
            let (writer, told) = rules(1, &own, &[53], v6);
            let (mut rest, mut messages) = (writer.bytes(), 0);
            while let Some(length) = rest.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes) as usize) {
                assert_eq!(length % 4, 0);
                rest = &rest[length..];
                messages += 1;
            }
            assert_eq!((told, messages, rest.len()), (asked, asked + 2, 0));
        }
    }
}
