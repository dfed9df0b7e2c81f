//! Private keys in PEM, and what people have instead: each is named, with the command that converts
//! it.
//!
//! | Found | Conversion |
//! |---|---|
//! | byte order mark of UTF-8 | none needed |
//! | UTF-16 | `iconv` |
//! | `\n` written out | `printf '%b'` |
//! | base64 without armour, or base64 of the whole file | `base64 -d` |
//! | PKCS#1, SEC1, encrypted, DER | `openssl pkey` |
//! | certificate, public key, PKCS#12, OpenSSH key, another algorithm or curve | another key |
//!
//! Errors never show any content of a file. Pure.

use data_encoding::BASE64;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RsaKeyPair};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use secrecy::{ExposeSecret, SecretString};

/// Algorithm of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// ECDSA on the curve P-256, as Apple's keys.
    P256,
    /// RSA of 2,048 to 4,096 bits, as keys of Google's service accounts.
    Rsa,
}

/// Where a key was found, for the commands in errors.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'a> {
    /// A file of its own, with this path.
    File(&'a str),
    /// A member of a JSON file.
    Json,
}

/// Object identifiers of key algorithms and curves in DER, and their names.
const ALGORITHMS: [(&[u8], &str); 6] = [
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01], "an RSA key"),
    (&[0x2b, 0x81, 0x04, 0x00, 0x22], "a key on the curve P-384"),
    (&[0x2b, 0x81, 0x04, 0x00, 0x23], "a key on the curve P-521"),
    (&[0x2b, 0x81, 0x04, 0x00, 0x0a], "a key on the curve secp256k1"),
    (&[0x2b, 0x65, 0x70], "an Ed25519 key"),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07], "a key on the curve P-256"),
];

/// Reads a private key: PKCS#8 in PEM, with or without a byte order mark.
///
/// # Errors
/// What was found instead, and what to do.
pub(super) fn private_key(
    bytes: &[u8],
    algorithm: Algorithm,
    source: Source<'_>,
) -> Result<SecretString, String> {
    let pem = text(bytes, source)?;
    let pem = pem.expose_secret();
    let Some(label) = label(pem) else { return Err(without_armour(pem, source)) };
    if pem.contains("\\n") {
        return Err(written_out(source));
    }
    let der = match label {
        _ if pem.contains("ENCRYPTED") => {
            return Err(convert("is encrypted; nobody could enter its password", source));
        }
        "PRIVATE KEY" => PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(
            |_| "is damaged between BEGIN and END; was the file cut, or were its lines joined?",
        )?,
        "RSA PRIVATE KEY" if algorithm == Algorithm::Rsa => {
            return Err(convert("is in the format PKCS#1; must be PKCS#8", source));
        }
        "EC PRIVATE KEY" if algorithm == Algorithm::P256 => {
            return Err(convert("is in the format SEC1; must be PKCS#8", source));
        }
        "RSA PRIVATE KEY" => return Err(other("an RSA key", algorithm)),
        "EC PRIVATE KEY" => return Err(other("an EC key", algorithm)),
        "OPENSSH PRIVATE KEY" => return Err(other("an SSH key", algorithm)),
        "CERTIFICATE" => return Err(other("a certificate, which has no private key", algorithm)),
        "PUBLIC KEY" | "RSA PUBLIC KEY" => return Err(other("a public key", algorithm)),
        _ => return Err("must have a `PRIVATE KEY` in PEM; got another PEM label".to_owned()),
    };
    check(der.secret_pkcs8_der(), algorithm)?;
    Ok(SecretString::from(pem))
}

/// Text of a file that may have a byte order mark.
///
/// # Errors
/// The file is empty, in another encoding, or binary.
pub(super) fn text(bytes: &[u8], source: Source<'_>) -> Result<SecretString, String> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err("is empty".to_owned());
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(with_command(
            "is in UTF-16, as some editors and shells of Windows write it; must be UTF-8",
            source,
            |file, new| format!("iconv -f UTF-16 -t UTF-8 {file} > {new}"),
        ));
    }
    if bytes.starts_with(&[0x30]) && std::str::from_utf8(bytes).is_err() {
        return Err(binary(bytes, source));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(SecretString::from(text.trim_start_matches('\u{feff}'))),
        Err(_) => Err("must be text in UTF-8".to_owned()),
    }
}

/// Label of the private key of a PEM text, else of its first block.
fn label(pem: &str) -> Option<&str> {
    let labels =
        || pem.split("-----BEGIN ").skip(1).filter_map(|block| Some(block.split_once("-----")?.0));
    labels().find(|label| label.ends_with("PRIVATE KEY")).or_else(|| labels().next())
}

/// Error for binary content that is DER.
fn binary(bytes: &[u8], source: Source<'_>) -> String {
    // SEQUENCE with a length of two octets, then INTEGER 3: the version of PKCS#12.
    if bytes.get(4..7) == Some(&[0x02, 0x01, 0x03]) {
        return "is a PKCS#12 container (.p12), which has a certificate; Clarion needs a key: for \
                APNs, create a key (.p8) under Certificates, Identifiers & Profiles, Keys; for \
                FCM, create a key of the type JSON"
            .to_owned();
    }
    with_command("is binary (DER); must be PKCS#8 in PEM", source, |file, new| {
        format!("openssl pkey -inform DER -in {file} -out {new}")
    })
}

/// Error for a text without `-----BEGIN`.
fn without_armour(text: &str, source: Source<'_>) -> String {
    let packed: String = text.split_ascii_whitespace().collect();
    match BASE64.decode(packed.as_bytes()) {
        Ok(inner) if inner.starts_with(b"-----BEGIN") || inner.starts_with(b"{") => {
            with_command("is encoded in base64 once more", source, |file, new| {
                format!("base64 -d {file} > {new}")
            })
        }
        Ok(inner) if inner.first() == Some(&0x30) => with_command(
            "is base64 without the lines BEGIN and END; must be PKCS#8 in PEM",
            source,
            |file, new| format!("base64 -d {file} | openssl pkey -inform DER -out {new}"),
        ),
        _ if text.trim_start().starts_with('{') => {
            "is JSON; must have a `PRIVATE KEY` in PEM (a key file of Google is for kind \"fcm\")"
                .to_owned()
        }
        _ => "must have a `PRIVATE KEY` in PEM".to_owned(),
    }
}

/// Error for a text in which line feeds are two characters.
fn written_out(source: Source<'_>) -> String {
    let what = r"has `\n` written out instead of line feeds";
    match source {
        Source::File(_) => {
            with_command(what, source, |file, new| format!("printf '%b' \"$(cat {file})\" > {new}"))
        }
        Source::Json => format!(
            r"{what}: the file was escaped twice; convert it: sed 's/\\\\n/\\n/g' FILE > key.json"
        ),
    }
}

fn convert(what: &str, source: Source<'_>) -> String {
    with_command(what, source, |file, new| format!("openssl pkey -in {file} -out {new}"))
}

/// Adds the command that converts a file. A key inside JSON was pasted there by hand, so the file
/// that Google issued is better than a conversion.
fn with_command(
    what: &str,
    source: Source<'_>,
    command: impl FnOnce(&str, &str) -> String,
) -> String {
    match source {
        Source::File(path) => {
            let file = quoted(path);
            let new = if path.ends_with(".json") { "key.json" } else { "key.p8" };
            format!("{what}; convert it: {}", command(&file, new))
        }
        Source::Json => format!("{what}; use the key file as Google issued it"),
    }
}

/// Quotes a path for a shell, if it needs quotes.
fn quoted(path: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+@%:,".contains(&b);
    if path.bytes().all(is_plain) {
        path.to_owned()
    } else {
        format!("'{}'", path.replace('\'', r"'\''"))
    }
}

fn other(found: &str, algorithm: Algorithm) -> String {
    match algorithm {
        Algorithm::P256 => format!(
            "must be a PKCS#8 key on the curve P-256, the .p8 file from Apple's developer account; \
             got {found}"
        ),
        Algorithm::Rsa => format!(
            "must be an RSA key of 2,048 to 4,096 bits, from a key file of Google; got {found}"
        ),
    }
}

/// Tries a key, so that a key that signs nothing fails at startup.
fn check(der: &[u8], algorithm: Algorithm) -> Result<(), String> {
    let named = || {
        let found = ALGORITHMS.iter().find(|(oid, _)| der.windows(oid.len()).any(|w| w == *oid));
        found.map(|(_, name)| *name)
    };
    match algorithm {
        Algorithm::P256 => {
            let random = ring::rand::SystemRandom::new();
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random)
                .map(drop)
                .map_err(|_| other(named().unwrap_or("no key"), algorithm))
        }
        // ring signs only with 2,048 to 4,096 bits, so other keys would fail later.
        Algorithm::Rsa => RsaKeyPair::from_pkcs8(der).map(drop).map_err(|e| {
            match named().filter(|name| *name != ALGORITHMS[0].1) {
                Some(name) => other(name, algorithm),
                None => format!("must be an RSA key of 2,048 to 4,096 bits; got {e}"),
            }
        }),
    }
}

#[cfg(test)]
mod tests;
