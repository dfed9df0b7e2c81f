//! Ports for processes that need each other's port before any of them is up.
//!
//! A port that is found by binding and releasing it is free for any process until its own process
//! binds it. So each port is *claimed* for as long as its run lasts: the run holds the UDP port of
//! the same number, on which no process of ours listens. Any code that looks for ports in this way,
//! in this process or another, skips claimed ports; and the system gives other ports to all other
//! programs.

use std::{
    io,
    net::{Ipv4Addr, TcpListener, UdpSocket},
};

use clarion_emulator::clock;

use crate::population::draws::Draws;

/// Range of claimed ports, below those that Linux assigns by itself (from 32,768 on, ip(7)), so
/// that no other program that connects or listens gets one of them.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Number of random ports that are tried. A run needs 65 at most.
const PORTS_TRIED: u32 = 300;

/// A TCP port of 127.0.0.1 on which no process listened when it was claimed. It can be claimed
/// again after it is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _claim: UdpSocket,
}

impl Port {
    /// Number of the port on the loopback interface.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Address of the port: `127.0.0.1:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }

    /// Claims one port.
    ///
    /// # Errors
    /// If the port is claimed, or a process listens on it.
    fn claim(number: u16) -> io::Result<Self> {
        let claim = UdpSocket::bind((Ipv4Addr::LOCALHOST, number))?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, number))?;
        Ok(Self { number, _claim: claim })
    }
}

/// Claims this many ports.
///
/// # Errors
/// If [`PORTS_TRIED`] attempts at random ports did not find enough free ones; the error is that of
/// the last attempt.
pub fn claim(count: usize) -> io::Result<Vec<Port>> {
    let mut draws = Draws::new(clock::wall().0, u64::from(std::process::id()), 0);
    let mut found = Vec::with_capacity(count);
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..PORTS_TRIED {
        if found.len() == count {
            break;
        }
        match Port::claim(
            PORTS.start
                + u16::try_from(draws.below(PORTS.len())).expect("below the end of the range"),
        ) {
            Ok(port) => found.push(port),
            Err(e) => last = e,
        }
    }
    if found.len() == count { Ok(found) } else { Err(last) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_is_claimed_can_be_bound_and_is_given_to_nobody_else() {
        // Threads that search in the same millisecond search in the same places.
        let claimed: Vec<_> = (0..8)
            .map(|_| std::thread::spawn(|| claim(5).unwrap()))
            .flat_map(|t| t.join().unwrap())
            .collect();
        let numbers: BTreeSet<_> = claimed.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), 8 * 5);
        assert!(numbers.iter().all(|n| PORTS.contains(n)));
        let listening: Vec<_> =
            claimed.iter().map(|port| TcpListener::bind(port.address()).unwrap()).collect();
        assert_eq!(listening.len(), 8 * 5);
        assert!(claimed.iter().all(|port| Port::claim(port.number()).is_err()));
    }

    #[test]
    fn what_somebody_listens_on_is_not_given() {
        // Below the range: tests beside this one claim ports at random, and one of them could claim
        // this port between two steps.
        let free = (PORTS.start - 1_000..PORTS.start).find_map(|number| Port::claim(number).ok());
        let port = free.expect("one of a thousand ports is free");
        let (number, stranger) = (port.number(), TcpListener::bind(port.address()).unwrap());
        drop(port);
        assert!(Port::claim(number).is_err());
        drop(stranger);
        assert!(Port::claim(number).is_ok());
    }
}
