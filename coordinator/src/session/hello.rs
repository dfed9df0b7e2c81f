//! Checks the first message of a node, its Hello; free of I/O.

use std::time::Duration;

use clarion_proto::{
    ids::{BootId, ClusterName, LogIdentity},
    wire::shard_v1 as wire,
};

use super::Identity;
use crate::owners::NodeName;

/// Time from the request for a session to the node's Hello.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

/// A node's Hello, checked.
#[derive(Debug)]
pub(crate) struct Greeted<'a> {
    pub(crate) node: NodeName,
    pub(crate) boot: BootId,
    /// Positions in this coordinator's log. Positions in another log are meaningless: the node
    /// drops its data of that log.
    pub(crate) positions: &'a [wire::LogPosition],
    pub(crate) hello: &'a wire::Hello,
}

/// Why a Hello begins no session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HelloError {
    /// The message breaks the contract.
    #[error("the Hello is wrong: {0}")]
    Wrong(&'static str),
    /// The node belongs to another cluster.
    #[error("the node's cluster is \"{theirs}\", this coordinator's is \"{ours}\"")]
    OtherCluster { theirs: String, ours: ClusterName },
}

/// Checks the first message of a stream.
///
/// # Errors
/// See [`HelloError`].
pub(crate) fn check<'a>(
    first: Option<&'a wire::session_response::Message>,
    ours: &Identity,
) -> Result<Greeted<'a>, HelloError> {
    let Some(wire::session_response::Message::Hello(hello)) = first else {
        return Err(HelloError::Wrong("another message came first"));
    };
    let boot = hello.boot_id.as_slice().try_into();
    let boot = BootId(boot.map_err(|_| HelloError::Wrong("boot_id: 16 bytes"))?);
    let node =
        NodeName::new(&hello.node).map_err(|_| HelloError::Wrong("node: no name of a node"))?;
    if hello.cluster != ours.cluster.as_str() {
        let theirs = hello.cluster.chars().take(63).collect();
        return Err(HelloError::OtherCluster { theirs, ours: ours.cluster.clone() });
    }
    let of_this_log = LogIdentity::from_wire(&hello.log_identity) == Ok(ours.log);
    let positions = if of_this_log { &hello.positions[..] } else { &[] };
    Ok(Greeted { node, boot, positions, hello })
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use clarion_proto::{ids::CoordinatorId, wire::shard_v1::session_response::Message};

    use super::*;
    use crate::fixtures::{BOOT_1, node};

    #[test]
    fn a_hello_is_taken_or_refused_with_its_reason() {
        let log = LogIdentity([7; 16]);
        let ours = Identity {
            cluster: ClusterName::default(),
            coordinator: CoordinatorId([1; 16]),
            log,
            lanes_epoch: OnceLock::new(),
        };
        let good = wire::Hello {
            boot_id: BOOT_1.0.to_vec(),
            node: "a".to_owned(),
            cluster: ours.cluster.as_str().to_owned(),
            log_identity: log.to_wire(),
            positions: vec![wire::LogPosition { log: 0, position: 9 }],
            ..wire::Hello::default()
        };
        let checked = |hello: &wire::Hello| {
            let first = Message::Hello(hello.clone());
            let greeted = check(Some(&first), &ours)?;
            Ok::<_, HelloError>((greeted.node, greeted.boot, greeted.positions.len()))
        };
        assert_eq!(checked(&good), Ok((node("a"), BOOT_1, 1)));
        let of_other_log = wire::Hello { log_identity: vec![8; 16], ..good.clone() };
        assert_eq!(
            checked(&of_other_log),
            Ok((node("a"), BOOT_1, 0)),
            "its positions mean nothing"
        );
        let wrong = |hello: wire::Hello| checked(&hello).unwrap_err();
        let boot = wire::Hello { boot_id: vec![1; 15], ..good.clone() };
        assert_eq!(wrong(boot), HelloError::Wrong("boot_id: 16 bytes"));
        let nameless = wire::Hello { node: String::new(), ..good.clone() };
        assert_eq!(wrong(nameless), HelloError::Wrong("node: no name of a node"));
        let (theirs, cluster) = ("other".to_owned(), ours.cluster.clone());
        let stranger = wire::Hello { cluster: theirs.clone(), ..good };
        assert_eq!(wrong(stranger), HelloError::OtherCluster { theirs, ours: cluster });
        let early = HelloError::Wrong("another message came first");
        assert_eq!(check(None, &ours).unwrap_err(), early);
        let report = Message::Report(wire::Report::default());
        assert_eq!(check(Some(&report), &ours).unwrap_err(), early);
    }
}
