//! Objects of snapshots that no record names: left by a crash between objects and record, or by a
//! record that had too many retired snapshots.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use clarion_proto::ids::{PartitionId, UnixMillis};

use super::{
    SAVE_WITHIN,
    record::{SnapshotId, Snapshots, is_over, parse_object},
};
use crate::objects::Listed;

/// Age from which an object without a record is deleted. A save ends within half of it, so no
/// record will ever name the object, also if the clocks of the coordinator and of the objects
/// differ by minutes.
pub const ORPHANED_AFTER: Duration = SAVE_WITHIN.saturating_mul(2);

/// Names of the objects to be deleted. An object stays if its partition's record cannot be read, if
/// any object of its snapshot is young, or if its name is none that the archive makes.
#[must_use]
pub fn orphans(
    listed: &[Listed],
    records: &BTreeMap<PartitionId, Option<Snapshots>>,
    now: UnixMillis,
) -> Vec<String> {
    let is_old = |object: &Listed| is_over(UnixMillis(object.modified_ms), now, ORPHANED_AFTER);
    let of = |object: &Listed| parse_object(&object.name).map(|(partition, id, _)| (partition, id));
    let young: BTreeSet<(PartitionId, SnapshotId)> =
        listed.iter().filter(|object| !is_old(object)).filter_map(of).collect();
    let is_named = |(partition, id): (PartitionId, SnapshotId)| match records.get(&partition) {
        Some(Some(snapshots)) => snapshots.names(id),
        Some(None) => true,
        None => false,
    };
    let orphaned = listed.iter().filter(|object| {
        of(object).is_some_and(|snapshot| !young.contains(&snapshot) && !is_named(snapshot))
    });
    orphaned.map(|object| object.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::record::{object, tests::stored},
        *,
    };

    #[test]
    fn only_old_objects_that_no_record_names_are_deleted() {
        let hour = 3_600_000;
        let now = UnixMillis(10 * hour);
        let mut snapshots = Snapshots::default();
        snapshots.add(stored(1, 0)).expect("the first");
        let records = [(PartitionId(0), Some(snapshots)), (PartitionId(1), None)].into();
        let (named, other) = (stored(1, 0).id, SnapshotId([9; 16]));
        let listed = |name: String, age: u64| Listed { name, bytes: 1, modified_ms: now.0 - age };
        let all = [
            listed(object(PartitionId(0), named, 0), 9 * hour),
            listed(object(PartitionId(0), other, 0), 9 * hour),
            listed(object(PartitionId(1), other, 0), 9 * hour),
            listed(object(PartitionId(2), other, 0), hour),
            listed(object(PartitionId(3), other, 0), 9 * hour),
            listed(object(PartitionId(3), other, 1), hour - 1),
            listed("snapshots/notes.txt".to_owned(), 9 * hour),
            listed("keys/0000000001".to_owned(), 9 * hour),
        ];
        let expected = [object(PartitionId(0), other, 0), object(PartitionId(2), other, 0)];
        assert_eq!(orphans(&all, &records, now), expected);
    }
}
