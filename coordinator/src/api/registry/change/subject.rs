//! The device that a change concerns: by the caller's identifier, or by app and token.
//!
//! ```text
//! identity of the app   registration, arrival       place, removal, mute
//! DEVICE                device                      device
//! TOKEN                 app and token of the        token_device
//!                       registration
//! ```
//!
//! An identifier and a token never give the same id: see [`DeviceId`].

use clarion_proto::{
    app::{Identity, Platform},
    error::{InvalidField, required},
    ids::{AppName, DeviceId},
    wire::v1 as wire,
};

use super::{super::DeviceKey, token::token};

/// Longest name of a device (other than a UUID), and of a person, bytes.
pub(super) const NAME_BYTES_MAX: usize = 128;
/// Maximum number of former devices that one registration replaces. A phone that was installed
/// again has one; more than a few are a mistaken list of other people's phones.
const REPLACES_MAX: usize = 4;

/// An existing app that a change names.
#[derive(Debug, Clone)]
pub(in super::super) struct KnownApp {
    pub(in super::super) name: AppName,
    pub(in super::super) platform: Platform,
    pub(in super::super) identity: Identity,
}

/// Finds the device that a change names; `None`: app and token of its registration are the name.
///
/// `app`: the app that the change names, if it exists; `registers`: whether the change is a
/// registration or an arrival.
pub(super) fn subject(
    device: &str,
    token_device: Option<wire::TokenDevice>,
    app: Option<&KnownApp>,
    registers: bool,
    key: &DeviceKey,
) -> Result<Option<DeviceId>, InvalidField> {
    if let Some(named) = token_device {
        return of_token_device(device, named, app, registers, key).map(Some);
    }
    match app.filter(|app| registers && app.identity == Identity::Token) {
        Some(_) if device.is_empty() => Ok(None),
        Some(app) => {
            let problem = format!(
                "must be empty for {}, which has IDENTITY_TOKEN: app and token identify the \
                 device; got {} bytes",
                app.name,
                device.len()
            );
            Err(InvalidField::new("device", problem))
        }
        None if device.is_empty() => {
            let except = if registers {
                "unless the registration's app has IDENTITY_TOKEN"
            } else {
                "or token_device for an app with IDENTITY_TOKEN"
            };
            Err(InvalidField::new("device", format_args!("is required, {except}")))
        }
        None => named(device, key).map(Some).map_err(|e| e.within("device")),
    }
}

fn of_token_device(
    device: &str,
    named: wire::TokenDevice,
    app: Option<&KnownApp>,
    registers: bool,
    key: &DeviceKey,
) -> Result<DeviceId, InvalidField> {
    if !device.is_empty() {
        let problem = "must not be set together with device";
        return Err(InvalidField::new("token_device", problem));
    }
    if registers {
        let problem =
            "must not be set in a registration or an arrival, which has app and token itself";
        return Err(InvalidField::new("token_device", problem));
    }
    let app = required(app, "token_device.app")?;
    if app.identity != Identity::Token {
        let problem =
            format!("must have IDENTITY_TOKEN; {} has IDENTITY_DEVICE: set device", app.name);
        return Err(InvalidField::new("token_device.app", problem));
    }
    let token = token(named.token, app.platform).map_err(|e| e.within("token_device"))?;
    Ok(key.id_of_token(&app.name, &token))
}

/// Checks the former identifiers that a registration replaces, or the former tokens of an app with
/// `IDENTITY_TOKEN`, and returns their ids without repeats. `own`: the device that the registration
/// names.
pub(super) fn replaced(
    former: &[String],
    own: DeviceId,
    app: &KnownApp,
    key: &DeviceKey,
) -> Result<Vec<DeviceId>, InvalidField> {
    if former.len() > REPLACES_MAX {
        let problem = format!("must have at most {REPLACES_MAX} devices; got {}", former.len());
        return Err(InvalidField::new("replaces", problem));
    }
    let mut ids = Vec::with_capacity(former.len());
    for (i, device) in former.iter().enumerate() {
        let field = format!("replaces[{i}]");
        let id = match app.identity {
            Identity::Device => named(device, key),
            Identity::Token => token(device.clone(), app.platform)
                .map(|token| key.id_of_token(&app.name, &token))
                .map_err(|e| InvalidField { field: String::new(), ..e }),
        };
        let id = id.map_err(|e| e.within(&field))?;
        if id == own {
            let problem = "must be a former device; got the device that the change registers";
            return Err(InvalidField::new(field, problem));
        }
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// Returns the id of a device that a caller names. The error has an empty field.
fn named(device: &str, key: &DeviceKey) -> Result<DeviceId, InvalidField> {
    match device.len() {
        0 => Err(InvalidField::new(
            "",
            format_args!("must have 1 to {NAME_BYTES_MAX} bytes; got 0 bytes"),
        )),
        n if n > NAME_BYTES_MAX => Err(InvalidField::new(
            "",
            format_args!("must be at most {NAME_BYTES_MAX} bytes; got {n} bytes"),
        )),
        // The lengths of a UUID's spellings: 32 digits, with hyphens, in braces, as a URN. The
        // parser takes any case.
        32 | 36 | 38 | 45 => {
            Ok(uuid::Uuid::try_parse(device).map_or_else(|_| key.id(device), |id| of_uuid(id, key)))
        }
        _ => Ok(key.id(device)),
    }
}

/// Returns the id of a UUID: its bytes, unless they have the form of an id of a token.
fn of_uuid(uuid: uuid::Uuid, key: &DeviceKey) -> DeviceId {
    let id = DeviceId(uuid.into_bytes());
    if id.is_of_token() {
        key.id(uuid.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()))
    } else {
        id
    }
}
