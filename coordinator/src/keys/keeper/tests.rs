use clarion_proto::ids::LogIdentity;
use clarion_runtime::world::World;

use super::*;
use crate::{
    keys::record::{KeyRecord, all},
    seal::SealError,
    store::memory::MemoryStore,
};

const HOUR: Duration = Duration::from_secs(3_600);

/// A store and its objects, which outlive the processes of a test.
struct Place {
    store: Arc<dyn Store>,
    objects: Objects,
    world: World,
}

impl Place {
    fn new() -> Self {
        let world = World::system();
        let store = Arc::new(MemoryStore::new(4, 1 << 20, &world));
        Self { store, objects: Objects::in_memory().of(LogIdentity([1; 16])), world }
    }

    /// The keeper of the next process.
    async fn open(&self) -> Result<KeyKeeper, KeyError> {
        let (store, objects) = (Arc::clone(&self.store), self.objects.clone());
        KeyKeeper::open(store, objects, Arc::default(), HOUR, self.world.clock()).await
    }

    async fn records(&self) -> Vec<KeyRecord> {
        all(&*self.store).await.expect("up").0
    }

    async fn halves(&self) -> Vec<String> {
        let listed = self.objects.list("keys").await.expect("up");
        let mut names: Vec<_> = listed.into_iter().map(|found| found.name).collect();
        names.sort();
        names
    }
}

#[tokio::test]
async fn the_first_start_makes_a_key_and_later_ones_load_it() {
    let place = Place::new();
    let first = place.open().await.expect("a key is made");
    assert_eq!(first.seals.newest(), Generation(1));
    let sealed = first.seals.seal(b"p", b"records");
    assert_eq!(first.rotate().await, Ok(Generation(2)));
    let again = place.open().await.expect("both are there");
    assert_eq!(again.seals.newest(), Generation(2));
    assert_eq!(again.seals.open(b"p", &sealed), Ok(b"records".to_vec()));
    assert_eq!(place.halves().await.len(), 2);
    for record in place.records().await {
        let other = place.objects.get(&record.wire.object).await.expect("there");
        let key = record.key(&other).expect("both halves");
        assert!(key[..] != record.wire.half[..] && key[..] != other[..], "no half is the key");
    }
}

#[tokio::test]
async fn a_half_that_is_missing_or_of_another_key_stops_the_start() {
    let place = Place::new();
    let keeper = place.open().await.expect("a key is made");
    keeper.rotate().await.expect("up");
    let [first, second] = &place.records().await[..] else { panic!("two keys") };
    let half = place.objects.get(&first.wire.object).await.expect("there");
    let of_second = place.objects.get(&second.wire.object).await.expect("there");
    let name = format!("{}/{}", "01".repeat(16), first.wire.object);
    for (content, problem) in [
        (None, "is missing. Restore the object"),
        (Some(half.slice(..31)), "must have 32 bytes; got 31 bytes"),
        (Some(of_second), "is not the other half of this key"),
    ] {
        place.objects.delete(&first.wire.object).await.expect("up");
        if let Some(content) = content {
            place.objects.put(&first.wire.object, content).await.expect("new");
        }
        let error = place.open().await.expect_err("not whole").to_string();
        let begins = format!("the key of generation 1: object {name}: {problem}");
        assert!(error.starts_with(&begins), "{error}");
    }
    place.objects.delete(&first.wire.object).await.expect("up");
    place.objects.put(&first.wire.object, half).await.expect("new");
    place.open().await.expect("restored");
}

#[tokio::test]
async fn a_key_that_was_not_finished_is_never_used_and_its_number_neither() {
    let place = Place::new();
    place.open().await.expect("a key is made");
    // A process that ended after it took the next number, and one that also wrote the object.
    let taken = |number| place.store.replace_numbered(Numbered::new(NEWEST, number, Bytes::new()));
    taken(2).await.expect("next");
    taken(3).await.expect("next");
    place.objects.put("keys/0000000003-00", Bytes::from_static(&[7; 32])).await.expect("new");
    let keeper = place.open().await.expect("one key");
    assert_eq!(keeper.seals.newest(), Generation(1));
    assert_eq!(keeper.rotate().await, Ok(Generation(4)));
    keeper.erase_unused().await.expect("up");
    let generations: Vec<_> = place.records().await.iter().map(KeyRecord::generation).collect();
    assert_eq!(generations, [Generation(4)]);
    assert_eq!(place.open().await.expect("one key").rotate().await, Ok(Generation(5)));
}

#[tokio::test]
async fn an_erased_key_is_gone_from_both_places_and_from_memory() {
    let place = Place::new();
    let keeper = place.open().await.expect("a key is made");
    let sealed = keeper.seals.seal(b"p", b"records");
    keeper.erase_unused().await.expect("up");
    assert!(keeper.seals.has(Generation(1)), "the newest key stays");
    let held = keeper.seals.hold();
    keeper.rotate().await.expect("up");
    keeper.erase_unused().await.expect("up");
    assert!(keeper.seals.has(Generation(1)), "somebody seals");
    drop(held);
    keeper.erase_unused().await.expect("up");
    let no_key = Err(SealError::NoKey(Generation(1)));
    assert_eq!(keeper.seals.open(b"p", &sealed), no_key);
    assert_eq!((place.records().await.len(), place.halves().await.len()), (1, 1));
    assert_eq!(place.open().await.expect("one key").seals.open(b"p", &sealed), no_key);
}

#[tokio::test]
async fn an_erasure_is_finished_wherever_it_ended() {
    for steps in 1..=2 {
        let place = Place::new();
        let keeper = place.open().await.expect("a key is made");
        keeper.rotate().await.expect("up");
        let erasing = place.records().await[0].erasing();
        place.store.replace_numbered(erasing.numbered()).await.expect("next");
        if steps == 2 {
            place.objects.erase(&erasing.wire.object).await.expect("up");
        }
        let next = place.open().await.expect("no damage");
        assert!(!next.seals.has(Generation(1)) && next.seals.has(Generation(2)), "{steps}");
        assert_eq!((place.records().await.len(), place.halves().await.len()), (1, 1), "{steps}");
    }
}

#[tokio::test]
async fn stored_snapshots_keep_their_key() {
    use clarion_proto::wire::store::v1 as wire;
    use prost::Message as _;

    let place = Place::new();
    let keeper = place.open().await.expect("a key is made");
    for _ in 0..3 {
        keeper.rotate().await.expect("up");
    }
    let snapshot = |generation| wire::StoredSnapshot { generation, ..Default::default() };
    let stored = async |number, current, retired| {
        let both = wire::PartitionSnapshots {
            current: vec![snapshot(current)],
            retired: vec![snapshot(retired)],
        };
        let next = Numbered::new("snapshot/00007", number, both.encode_to_vec());
        place.store.replace_numbered(next).await.expect("next");
        keeper.erase_unused().await.expect("up");
        place.records().await.iter().map(|record| record.wire.generation).collect::<Vec<_>>()
    };
    assert_eq!(stored(1, 3, 2).await, [2, 3, 4]);
    assert_eq!(stored(2, 4, 3).await, [3, 4]);
    place.store.replace_numbered(Numbered::new("snapshot/00008", 1, "?")).await.expect("next");
    let error = keeper.erase_unused().await.expect_err("what it needs is not known");
    assert!(error.to_string().starts_with("snapshot/00008 cannot be read"), "{error}");
}
