//! File descriptors: reserves the descriptors that the process itself needs before a listener may
//! accept.
//!
//! A process without a free descriptor cannot connect to a gateway, and its lanes stop because a
//! client holds idle connections to a port. So at startup the process raises its limit to the
//! system's maximum and divides it: first the descriptors that the process needs for itself, then
//! at least half of the rest for outgoing connections, and what is left for accepted connections.
//! Listeners keep to their part ([`crate::listener::Limits::connections_max`]), so nothing needs to
//! be counted later. If the parts are too small to serve anyone, the process does not start.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::listener::leaving_max;

/// Range of connections that a listener asks for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Name of the listener, for the error message.
    pub name: &'static str,
    /// Least number of connections: with fewer, idle clients could keep all others out.
    pub min: usize,
    /// Above this it accepts no more anyway.
    pub max: usize,
}

/// The limit of file descriptors is too low for the process to start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "file descriptors: the limit is {limit}, at least {needed} are needed ({own} for the process, {connects} for the \
     connections that it makes, {accepts} for those that it accepts); raise it (ulimit -n, LimitNOFILE)"
)]
pub struct Shortage {
    /// Highest number of open file descriptors that the system allows this process.
    pub limit: usize,
    /// Least limit under which the process can start.
    pub needed: usize,
    /// Descriptors that the process itself needs: standard streams, event queues, files.
    pub own: usize,
    /// Descriptors for outgoing connections: lanes, sessions, feeds.
    pub connects: usize,
    /// Descriptors for accepted connections of all listeners.
    pub accepts: usize,
}

/// Raises the limit of this process as far as the system allows, and tells it.
///
/// # Errors
/// The system's.
pub fn raise() -> io::Result<usize> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // `None`: without a limit.
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(maximum.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX)))
}

/// Connections for each listener, in order, under a limit: `own` descriptors are the process's, at least `connects` and half
/// of the rest are left to it for connecting.
///
/// # Errors
/// Not everybody can have the least.
pub fn share(
    limit: usize,
    own: usize,
    connects: usize,
    wanted: &[Wanted],
) -> Result<Vec<usize>, Shortage> {
    let accepts: usize = wanted.iter().map(|w| descriptors(w.min)).sum();
    let needed = own + connects + accepts;
    if limit < needed {
        return Err(Shortage { limit, needed, own, connects, accepts });
    }
    let left = limit - own;
    let more = (left / 2).max(accepts).min(left - connects) - accepts;
    let wish = |w: &Wanted| descriptors(w.max.max(w.min)) - descriptors(w.min);
    let wishes: usize = wanted.iter().map(wish).sum();
    let share = |w: &Wanted| {
        // In 128 bits: a limit may be all of usize.
        let part = (more.min(wishes) as u128 * wish(w) as u128 / wishes.max(1) as u128) as usize;
        connections(descriptors(w.min) + part, w)
    };
    Ok(wanted.iter().map(share).collect())
}

/// A listener's socket, its connections, and those that leave while others come.
fn descriptors(connections: usize) -> usize {
    1 + connections + leaving_max(connections)
}

/// Highest number of connections that `held` descriptors allow.
fn connections(held: usize, wanted: &Wanted) -> usize {
    (wanted.min..=wanted.max.max(wanted.min))
        .rev()
        .find(|n| descriptors(*n) <= held)
        .unwrap_or(wanted.min)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: [Wanted; 2] =
        [Wanted { name: "session", min: 4, max: 64 }, Wanted { name: "health", min: 4, max: 64 }];

    #[test]
    fn with_room_everybody_has_all_and_with_little_the_work_has_half() {
        assert_eq!(share(usize::MAX, 30, 8, &WANTED), Ok(vec![64, 64]));
        assert_eq!(share(1_024, 30, 8, &WANTED), Ok(vec![64, 64]));
        for limit in 50..1_024 {
            let shares = share(limit, 30, 8, &WANTED).unwrap();
            let accepts: usize = shares.iter().map(|n| descriptors(*n)).sum();
            assert!(shares.iter().all(|n| (4..=64).contains(n)));
            assert!(30 + 8 + accepts <= limit, "{limit}: {shares:?}");
            assert!(accepts <= ((limit - 30) / 2).max(12), "{limit}: {shares:?}");
        }
    }

    #[test]
    fn too_little_is_refused_with_the_arithmetic() {
        let shortage = share(49, 30, 8, &WANTED).unwrap_err();
        assert_eq!(
            shortage.to_string(),
            "file descriptors: the limit is 49, at least 50 are needed (30 for the process, 8 for the connections that it \
             makes, 12 for those that it accepts); raise it (ulimit -n, LimitNOFILE)"
        );
    }

    #[test]
    fn the_limit_is_what_the_system_allows() {
        let limit = raise().unwrap();
        assert!(limit > 0 && limit == raise().unwrap());
    }
}
