//! The limit of open feeds; free of I/O.
//!
//! A node has one feed. A newer feed with the same node name replaces the older feed, which belongs
//! to a process or a connection that is dead without having noticed. A client could open any number
//! of feeds under invented names: therefore only [`STRANGERS_MAX`] feeds are served at a time whose
//! node names have no session with this coordinator. A node with a session is always served, and a
//! new node has a session a moment later, because coordinators connect to nodes.

use std::collections::BTreeMap;

use tokio_util::sync::CancellationToken;

/// Maximum number of feeds of names without a session. A coordinator that has just started has no
/// sessions for a moment: it serves this number of feeds at once, and the remaining nodes retry.
pub(super) const STRANGERS_MAX: usize = 32;

/// All places of feeds without a session are taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoPlace;

/// The open feeds by their nodes' names.
#[derive(Debug, Default)]
pub(super) struct Places {
    next: u64,
    feeds: BTreeMap<String, Feed>,
}

#[derive(Debug)]
struct Feed {
    number: u64,
    known: bool,
    superseded: CancellationToken,
}

impl Places {
    /// Opens a feed; `superseded` is cancelled when a newer feed of the same name opens. Returns
    /// the feed's number, for [`Places::give_back`].
    pub(super) fn take(
        &mut self,
        node: &str,
        known: bool,
        superseded: CancellationToken,
    ) -> Result<u64, NoPlace> {
        let strangers =
            self.feeds.iter().filter(|(name, feed)| !feed.known && *name != node).count();
        if !known && strangers >= STRANGERS_MAX {
            return Err(NoPlace);
        }
        self.next += 1;
        let feed = Feed { number: self.next, known, superseded };
        if let Some(older) = self.feeds.insert(node.to_owned(), feed) {
            older.superseded.cancel();
        }
        Ok(self.next)
    }

    /// Closes a feed; a newer feed of the same name stays.
    pub(super) fn give_back(&mut self, node: &str, number: u64) {
        if self.feeds.get(node).is_some_and(|feed| feed.number == number) {
            self.feeds.remove(node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_few_and_nodes_always_have_a_place() {
        let mut places = Places::default();
        let mut take = |name: &str, known| places.take(name, known, CancellationToken::new());
        for stranger in 0..STRANGERS_MAX {
            take(&format!("stranger-{stranger}"), false).unwrap();
        }
        assert_eq!(take("one-more", false), Err(NoPlace));
        take("stranger-0", false).expect("in its own place");
        let number = take("shard-0", true).unwrap();
        take("shard-1", true).unwrap();
        places.give_back("stranger-1", 2);
        places.take("one-more", false, CancellationToken::new()).expect("a place is free again");
        places.give_back("shard-0", number);
        assert!(!places.feeds.contains_key("shard-0"));
    }

    #[test]
    fn a_newer_feed_takes_the_place_of_the_older_of_its_name() {
        let mut places = Places::default();
        let (older, newer) = (CancellationToken::new(), CancellationToken::new());
        let first = places.take("shard-0", true, older.clone()).unwrap();
        places.take("shard-0", true, newer.clone()).unwrap();
        assert!(older.is_cancelled() && !newer.is_cancelled());
        places.give_back("shard-0", first);
        assert!(places.feeds.contains_key("shard-0"), "the newer one is still open");
    }
}
