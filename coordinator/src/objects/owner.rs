//! Whose the objects are: an object with the name of the cluster, compared at every start.
//!
//! A store whose keys have their other halves in another folder cannot be read. It must not start,
//! and above all it must not go on with new keys in a folder that an operator mistyped.

use bytes::Bytes;
use clarion_proto::ids::LogIdentity;

use super::{ObjectError, Objects};

/// Name of the object that tells the cluster.
const OWNER: &str = "cluster";

/// Why a cluster must not use objects.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OwnerError {
    /// The folder or bucket does not answer or refuses.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// The objects with the identity of the store name another cluster.
    #[error(
        "object {identity}/{OWNER}: must name the cluster {cluster}, whose store this is; got \
         {found:?}. Restore the object, or name the folder or bucket of the store"
    )]
    Renamed {
        /// Identity of the store's logs, in hexadecimal digits.
        identity: String,
        /// Name of the cluster.
        cluster: String,
        /// The object's text.
        found: String,
    },
    /// The folder has objects of another store only.
    #[error(
        "the folder has the objects of the cluster {found}, in a store with the identity \
         {identity}. Name another folder; if that store is gone for good, delete the folder"
    )]
    Foreign {
        /// Name of the other cluster.
        found: String,
        /// Identity of its store's logs, in hexadecimal digits.
        identity: String,
    },
    /// The store has keys, and none of its objects is there.
    #[error(
        "the other halves of the store's keys are missing: there is no object {identity}/{OWNER}\
         {others}. Name the folder or bucket that the store was used with, or restore its objects; \
         without them the devices of the store cannot be read"
    )]
    HalvesMissing {
        /// Identity of the store's logs, in hexadecimal digits.
        identity: String,
        /// Which clusters have objects there.
        others: String,
    },
}

/// Takes the objects of a place for a cluster: checks that they are the cluster's, or marks them if
/// there are none. `has_keys`: whether the store has halves of keys.
///
/// # Errors
/// See [`OwnerError`].
pub async fn claim(
    place: &Objects,
    cluster: &str,
    identity: LogIdentity,
    has_keys: bool,
) -> Result<Objects, OwnerError> {
    let own = place.of(identity);
    let shown = own.prefix.trim_end_matches('/').to_owned();
    match own.get(OWNER).await {
        Ok(found) if found == cluster.as_bytes() => return Ok(own),
        Ok(found) => {
            let found = String::from_utf8_lossy(&found).into_owned();
            return Err(OwnerError::Renamed { identity: shown, cluster: cluster.into(), found });
        }
        Err(ObjectError::Missing(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let other = other(place).await?;
    if has_keys {
        let others = other.map(|(cluster, _)| format!(", but those of the cluster {cluster}"));
        let others = others.unwrap_or_default();
        return Err(OwnerError::HalvesMissing { identity: shown, others });
    }
    // A bucket may be shared; a folder has no use for it, and was mistyped.
    if let (Some((found, identity)), true) = (other, place.folder.is_some()) {
        return Err(OwnerError::Foreign { found, identity });
    }
    own.put(OWNER, Bytes::copy_from_slice(cluster.as_bytes())).await?;
    Ok(own)
}

/// A cluster that has objects in a place, and the identity of its logs.
async fn other(place: &Objects) -> Result<Option<(String, String)>, ObjectError> {
    for identity in place.folders().await? {
        match place.get(&format!("{identity}/{OWNER}")).await {
            Ok(cluster) => {
                return Ok(Some((String::from_utf8_lossy(&cluster).into_owned(), identity)));
            }
            Err(ObjectError::Missing(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: LogIdentity = LogIdentity([1; 16]);

    #[tokio::test]
    async fn a_store_uses_only_the_objects_it_began_with() {
        let folder = tempfile::tempdir().expect("a folder");
        let [place, empty] =
            ["a", "b"].map(|name| Objects::in_folder(&folder.path().join(name)).expect("writable"));
        let claim = async |place, cluster, identity, has_keys| {
            let claimed = claim(place, cluster, identity, has_keys).await;
            claimed.map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(claim(&place, "c", IDENTITY, false).await, Ok(()), "first start");
        for has_keys in [false, true] {
            assert_eq!(claim(&place, "c", IDENTITY, has_keys).await, Ok(()));
        }
        let renamed = claim(&place, "d", IDENTITY, true).await.expect_err("renamed");
        assert!(renamed.contains("must name the cluster d") && renamed.contains("got \"c\""));
        let missing = claim(&empty, "c", IDENTITY, true).await.expect_err("the wrong folder");
        assert!(
            missing.starts_with(
                "the other halves of the store's keys are missing: there is no \
                                     object 01010101"
            ),
            "{missing}"
        );
        let other = LogIdentity([2; 16]);
        let missing = claim(&place, "e", other, true).await.expect_err("the wrong folder");
        assert!(missing.contains("but those of the cluster c. Name"), "{missing}");
        let foreign = claim(&place, "e", other, false).await.expect_err("somebody else's");
        assert!(foreign.contains("has the objects of the cluster c, in a store"), "{foreign}");
    }

    #[tokio::test]
    async fn two_clusters_share_what_is_no_folder() {
        let place = Objects::in_memory();
        for (cluster, byte) in [("c", 1), ("d", 2), ("c", 1)] {
            claim(&place, cluster, LogIdentity([byte; 16]), false).await.expect("its own names");
        }
    }
}
