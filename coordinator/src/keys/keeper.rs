//! Loads the keys of a store, makes new ones, and erases those that nothing needs.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use clarion_proto::time::Time;
use clarion_runtime::{repeated::Repeated, world::Clock};
use data_encoding::HEXLOWER;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::{
    Keys,
    record::{self, KeyRecord, NEWEST, Secret},
};
use crate::{
    objects::{ObjectError, Objects},
    seal::{Generation, KEY_BYTES, Seals},
    store::{Numbered, Store, StoreError},
};

/// Pauses between two looks at the keys: within these, a sixth of the time between two rotations.
const PAUSES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));
/// Bytes of the random part of an object's name.
const NAME_BYTES: usize = 16;

/// Why keys cannot be loaded, made or erased.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Half of a key is missing or damaged. A retry does not help.
    #[error(
        "the key of generation {generation}: object {object}: {problem}. Restore the object; if \
         the database was restored from a backup, use one that was made after the key was erased, \
         or restore the objects of the same time; without the object nothing that the key sealed \
         can be read. If it is gone for good, as after a failover that brought an erased key back, \
         start with --accept-lost-changes",
        generation = .generation.0
    )]
    Half {
        /// Number of the key.
        generation: Generation,
        /// Name of the object with the other half.
        object: String,
        /// What is wrong.
        problem: String,
    },
    /// The folder or bucket does not answer or refuses.
    #[error("objects: {0}")]
    Objects(#[from] ObjectError),
    /// The store does not answer or refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The keys of a store, whose process alone writes to the store and its objects.
#[derive(Debug)]
pub struct KeyKeeper {
    store: Arc<dyn Store>,
    objects: Objects,
    seals: Arc<Seals>,
    rotation: Duration,
    clock: Clock,
}

impl KeyKeeper {
    /// Loads all keys of a store into `seals`, makes the first one if there is none, and finishes
    /// erasures that a former process began. `rotation`: time between two keys.
    ///
    /// # Errors
    /// See [`KeyError`]. Half of a key that is not being erased is missing or damaged.
    pub async fn open(
        store: Arc<dyn Store>,
        objects: Objects,
        seals: Arc<Seals>,
        rotation: Duration,
        clock: Clock,
    ) -> Result<Self, KeyError> {
        Self::open_accepting(store, objects, seals, rotation, clock, false).await
    }

    /// The same; `accept_lost`: a key of which half is missing or damaged is left out, and what it
    /// sealed cannot be read.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub async fn open_accepting(
        store: Arc<dyn Store>,
        objects: Objects,
        seals: Arc<Seals>,
        rotation: Duration,
        clock: Clock,
        accept_lost: bool,
    ) -> Result<Self, KeyError> {
        let keeper = Self { store, objects, seals, rotation, clock };
        let (records, _) = record::all(&*keeper.store).await?;
        let (erasing, live): (Vec<_>, Vec<_>) =
            records.iter().partition(|record| record.wire.erasing);
        let mut needs_key = live.is_empty();
        for record in &live {
            match keeper.load(record).await {
                Ok(key) => keeper.seals.add(record.generation(), &key),
                Err(error @ KeyError::Half { .. }) if accept_lost => {
                    tracing::error!(%error, "loss of a key accepted by the operator");
                    // An older key must not seal behind one that is left out: keys are erased in
                    // the order in which they sealed.
                    needs_key = true;
                }
                Err(error) => return Err(error),
            }
        }
        if needs_key {
            keeper.rotate().await?;
        }
        for record in erasing {
            keeper.erase(record).await?;
        }
        Ok(keeper)
    }

    /// Makes and erases keys when it is time, until the store may not be used any more.
    pub async fn run(&self) {
        let mut failures = Repeated::default();
        let pause = (self.rotation / 6).clamp(PAUSES.0, PAUSES.1);
        loop {
            match self.tend().await {
                Ok(()) => {}
                Err(KeyError::Store(error)) if error.ends_process() => return,
                Err(error) => {
                    let now = self.clock.now().since(Time(0));
                    let reason = error.to_string();
                    if let Some(count) = failures.note(&reason, now) {
                        tracing::warn!(reason, count, "data keys not tended; retrying");
                    }
                }
            }
            sleep(pause).await;
        }
    }

    /// Makes the next key if the newest one is old, and erases the keys that nothing needs.
    ///
    /// # Errors
    /// See [`KeyError`]. What was begun is finished by the next call, or by the next process.
    pub async fn tend(&self) -> Result<(), KeyError> {
        let (records, _) = record::all(&*self.store).await?;
        let keys = self.keys(&records);
        if keys.is_due(self.clock.wall(), self.rotation, self.seals.sealed()) {
            self.rotate().await?;
        }
        self.erase_unused().await
    }

    /// Makes the next key, which seals from then on.
    ///
    /// # Errors
    /// See [`KeyError`]. A key that was written and cannot be read back is not used.
    pub async fn rotate(&self) -> Result<Generation, KeyError> {
        let (_, newest) = record::all(&*self.store).await?;
        let generation = Generation(newest.0 + 1);
        let next = Numbered::new(NEWEST, u64::from(generation.0), Bytes::new());
        self.store.replace_numbered(next).await?;

        let [half, other]: [Secret; 2] = [random(), random()];
        let mut key = half.clone();
        key.iter_mut().zip(&*other).for_each(|(byte, other)| *byte ^= other);
        let name: Zeroizing<[u8; NAME_BYTES]> = random();
        let object = format!("keys/{:010}-{}", generation.0, HEXLOWER.encode(&*name));
        let written = self.objects.write(&object, Bytes::copy_from_slice(&other[..])).await?;
        if written.keeps_versions {
            tracing::warn!(
                "bucket keeps versions of erased keys; set a lifecycle rule that expires them"
            );
        }
        let record = KeyRecord::new(generation, &half, &key, object, self.clock.wall());
        self.store.replace_numbered(record.numbered()).await?;

        // Only what can be read back seals.
        let (stored, _) = record::all(&*self.store).await?;
        let stored = stored.iter().find(|stored| **stored == record);
        let stored = stored.ok_or_else(|| StoreError::Unreadable {
            record: record.numbered().key,
            problem: "it is not what was written".to_owned(),
        })?;
        let loaded = self.load(stored).await?;
        self.seals.add(generation, &loaded);
        tracing::info!(generation = generation.0, "data key made");
        Ok(generation)
    }

    /// Erases every key that nothing needs.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub async fn erase_unused(&self) -> Result<(), KeyError> {
        // Read before the logs and snapshots: see `Keys::erasable`.
        let oldest_held = self.seals.oldest_held();
        let (records, _) = record::all(&*self.store).await?;
        let keys = self.keys(&records);
        if !keys.has_former() {
            return Ok(());
        }
        let oldest_in_snapshots = record::oldest_in_snapshots(&*self.store).await?;
        let oldest_in_logs = self.store.oldest_generation().await?;
        let erasable = keys.erasable(oldest_in_logs, oldest_in_snapshots, oldest_held);
        for record in records.iter().filter(|record| erasable.contains(&record.generation())) {
            self.erase(record).await?;
        }
        Ok(())
    }

    /// Erases a key for good, from wherever a former attempt ended.
    async fn erase(&self, record: &KeyRecord) -> Result<(), KeyError> {
        let generation = record.generation();
        let erasing = match record.wire.erasing {
            true => record.clone(),
            // From here on a half that is missing is no damage.
            false => {
                let erasing = record.erasing();
                self.store.replace_numbered(erasing.numbered()).await?;
                erasing
            }
        };
        self.seals.remove(generation);
        self.objects.erase(&erasing.wire.object).await?;
        let Numbered { key, number, .. } = erasing.numbered();
        self.store.delete_numbered(&key, number).await?;
        self.store.scrub().await?;
        tracing::info!(generation = generation.0, "data key erased");
        Ok(())
    }

    /// Reads the other half of a key.
    async fn load(&self, record: &KeyRecord) -> Result<Secret, KeyError> {
        let name = &record.wire.object;
        let damaged = |problem| {
            let (generation, object) = (record.generation(), self.objects.full(name));
            KeyError::Half { generation, object, problem }
        };
        match self.objects.get(name).await {
            Ok(other) => record.key(&other).map_err(damaged),
            Err(ObjectError::Missing(_)) => Err(damaged("is missing".to_owned())),
            Err(error) => Err(error.into()),
        }
    }

    fn keys(&self, records: &[KeyRecord]) -> Keys {
        Keys::new(records.iter().map(KeyRecord::known).collect(), self.seals.newest())
    }
}

/// Random bytes of the system.
fn random<const BYTES: usize>() -> Zeroizing<[u8; BYTES]> {
    let mut bytes = Zeroizing::new([0; BYTES]);
    SystemRandom::new().fill(&mut *bytes).expect("the system has random numbers");
    bytes
}

const _: () = assert!(KEY_BYTES == 32, "an object half is as long as the key");

#[cfg(test)]
mod tests;
