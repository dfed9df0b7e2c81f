//! Limits that count per peer, and the part of a limit that one peer may use.
//!
//! Until callers have identities, a peer is the address that a connection comes from ([`PeerKey`]).
//! Every shared limit has a total and a share for each peer, so that one peer cannot lock out the
//! others.
//!
//! - [`shares`]: places that are had or refused at once. A peer may hold at most as many as it
//!   leaves free: alone half of them, beside a peer with half a quarter of all, and so on. Two
//!   peers never lock out a third.
//! - [`rates`]: so many at once and so many an hour.
//! - [`turns`]: work that waits for its turn. Peers are served one after another, however much one
//!   of them asks for.
//!
//! Limitation: all callers behind one proxy count as one peer, and a caller with many addresses
//! counts as many peers.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

pub mod rates;
pub mod shares;
pub mod turns;

/// Identity of a peer: its IPv4 address, or the network of 64 bits of its IPv6 address, because one
/// host may use all addresses in that network.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey(IpAddr);

impl PeerKey {
    /// Key of requests without a connection, as in tests of a service alone.
    pub const NONE: Self = Self(IpAddr::V4(Ipv4Addr::UNSPECIFIED));

    /// Key of the peer at an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            v4 @ IpAddr::V4(_) => Self(v4),
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                Self(IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)))
            }
        }
    }
}

impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(v4) => v4.fmt(f),
            IpAddr::V6(v6) => write!(f, "{v6}/64"),
        }
    }
}

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn peer(n: u8) -> PeerKey {
        PeerKey::of(IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)))
    }

    #[test]
    fn a_peer_is_an_address_or_a_network_of_ipv6() {
        let of = |text: &str| PeerKey::of(text.parse().expect("an address"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"), "IPv4 as a socket of IPv6 shows it");
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("2001:db8:1:2::1").to_string(), "2001:db8:1:2::/64");
    }
}
