//! What somebody finds who has the bytes of a store, of its backups and of its objects.
//!
//! The attack does not use Clarion's way to open sealed parts: it decrypts wherever a sealed part
//! seems to begin, with every key that any two halves make, and ignores checksums, lengths and
//! places.

use std::{collections::BTreeSet, fs, path::Path};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

/// Bytes that are decrypted from the beginning of a part: more than a page of a database.
const WINDOW: usize = 16 << 10;
/// Highest generation in the test.
const GENERATIONS: u8 = 8;

/// Bytes that somebody has, with the name of their source.
pub(crate) struct Loot {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// All files below a folder.
pub(crate) fn files(folder: &Path) -> Vec<Loot> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for entry in entries.map(|entry| entry.expect("readable")) {
        let path = entry.path();
        if entry.file_type().expect("readable").is_dir() {
            found.extend(files(&path));
        // Sockets cannot be read, and files of a running server come and go.
        } else if let Ok(bytes) = fs::read(&path) {
            found.push(Loot { name: path.display().to_string(), bytes });
        }
    }
    found
}

/// The XOR of each half of one place with each half of the other place.
pub(crate) fn keys(halves: &[Vec<u8>], others: &[Vec<u8>]) -> Vec<[u8; 32]> {
    let pairs = halves.iter().flat_map(|half| others.iter().map(move |other| (half, other)));
    let keys = pairs.filter_map(|(half, other)| {
        let key: Vec<u8> = half.iter().zip(other).map(|(a, b)| a ^ b).collect();
        key.try_into().ok()
    });
    keys.collect()
}

/// Names of everything that has `token`, as it is or after decryption.
pub(crate) fn find(loot: &[Loot], keys: &[[u8; 32]], token: &[u8]) -> BTreeSet<String> {
    let keys: Vec<_> = keys
        .iter()
        .map(|key| LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("32 bytes")))
        .collect();
    let mut found = BTreeSet::new();
    for Loot { name, bytes } in loot {
        if has(bytes, token) {
            found.insert(name.clone());
        }
        for start in beginnings(bytes) {
            let rest = &bytes[start + 5..];
            let Some((nonce, sealed)) = rest.split_at_checked(NONCE_LEN) else { continue };
            for key in &keys {
                let mut window = sealed[..sealed.len().min(WINDOW)].to_vec();
                let nonce = Nonce::try_assume_unique_for_key(nonce).expect("12 bytes");
                // In counter mode, to encrypt is to decrypt.
                let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut window);
                let _ = tag.expect("small");
                if has(&window, token) {
                    found.insert(format!("{name}, decrypted"));
                }
            }
        }
    }
    found
}

/// Where a sealed part may begin: its version, and a small generation in four bytes.
fn beginnings(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let begins = |part: &[u8]| {
        part[0] == 1 && (1..=GENERATIONS).contains(&part[1]) && part[2..5] == [0, 0, 0]
    };
    bytes.windows(5).enumerate().filter(move |(_, part)| begins(part)).map(|(start, _)| start)
}

/// Whether bytes have a part.
pub(crate) fn has(bytes: &[u8], part: &[u8]) -> bool {
    let first = part[0];
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == first) {
        if rest[at..].starts_with(part) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}
