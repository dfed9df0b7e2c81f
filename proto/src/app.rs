//! App: one application on one platform, and the lane that reaches its devices.

use crate::{error::InvalidField, ids::AppName, wire::v1 as wire};

/// Maximum length of a display name, bytes.
pub const DISPLAY_NAME_BYTES_MAX: usize = 128;
/// Maximum length of a topic or project, bytes. App Store Connect limits bundle ids to 155
/// characters.
pub const TOPIC_BYTES_MAX: usize = 255;

/// Kind of push gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Platform {
    /// Apple Push Notification service.
    Apns,
    /// Firebase Cloud Messaging, HTTP v1.
    Fcm,
}

/// Environment of a provider. A gateway refuses a token of the other environment as a bad token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Environment {
    /// Tokens of apps from a store.
    Production,
    /// Tokens of development builds.
    Sandbox,
}

/// Whether the devices behind a lane belong to real people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LaneKind {
    /// Phones of real people.
    Live,
    /// An emulator or the devices of a laboratory.
    Test,
}

/// What identifies a device of an app in the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// The caller's identifier of the device.
    Device,
    /// The app and the token of the device: one token is one device.
    Token,
}

/// Fields of an app that callers set. The store adds the time of creation and the revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// Resource name `apps/{app}`.
    pub name: AppName,
    /// Name shown to operators; no decision depends on it.
    pub display_name: String,
    /// Platform of the app, fixed at creation.
    pub platform: Platform,
    /// Name of a configured gateway.
    pub gateway: String,
    /// Name of a configured credential.
    pub credential: String,
    /// Value of `apns-topic` for an APNs app; empty for an FCM app.
    pub topic: String,
    /// Firebase project id of an FCM app; empty for an APNs app.
    pub project: String,
    /// Environment of the app's tokens.
    pub environment: Environment,
    /// Kind of the app's lane.
    pub lane_kind: LaneKind,
    /// What identifies a device of the app, fixed at creation.
    pub identity: Identity,
}

impl App {
    /// Checks the form of every field. The coordinator checks whether the gateway and the
    /// credential are configured.
    ///
    /// # Errors
    /// The first invalid field, as a path inside the app such as `topic`.
    pub fn from_wire(app: wire::App) -> Result<Self, InvalidField> {
        let platform = platform(app.platform)?;
        if app.display_name.len() > DISPLAY_NAME_BYTES_MAX {
            let problem = format!(
                "must be at most {DISPLAY_NAME_BYTES_MAX} bytes; got {} bytes",
                app.display_name.len()
            );
            return Err(InvalidField::new("display_name", problem));
        }
        let (topic_required, project_required) =
            (platform == Platform::Apns, platform == Platform::Fcm);
        Ok(Self {
            name: AppName::from_name(&app.name).map_err(|e| e.within("name"))?,
            display_name: app.display_name,
            platform,
            gateway: configured_name(app.gateway, "gateway")?,
            credential: configured_name(app.credential, "credential")?,
            topic: header_value(app.topic, "topic", topic_required)?,
            project: header_value(app.project, "project", project_required)?,
            environment: environment(app.environment)?,
            lane_kind: lane_kind(app.lane_kind)?,
            identity: identity(app.identity)?,
        })
    }

    /// Converts the app to its message, without `create_time` and `etag`.
    #[must_use]
    pub fn to_wire(&self) -> wire::App {
        let platform = match self.platform {
            Platform::Apns => wire::Platform::Apns,
            Platform::Fcm => wire::Platform::Fcm,
        };
        let environment = match self.environment {
            Environment::Production => wire::Environment::Production,
            Environment::Sandbox => wire::Environment::Sandbox,
        };
        let lane_kind = match self.lane_kind {
            LaneKind::Live => wire::LaneKind::Live,
            LaneKind::Test => wire::LaneKind::Test,
        };
        let identity = match self.identity {
            Identity::Device => wire::Identity::Device,
            Identity::Token => wire::Identity::Token,
        };
        wire::App {
            name: self.name.name(),
            display_name: self.display_name.clone(),
            platform: platform.into(),
            gateway: self.gateway.clone(),
            credential: self.credential.clone(),
            topic: self.topic.clone(),
            project: self.project.clone(),
            environment: environment.into(),
            lane_kind: lane_kind.into(),
            create_time: None,
            etag: String::new(),
            identity: identity.into(),
        }
    }
}

/// Converts an enum's number, which must be set and known to this version.
pub(crate) fn enum_value<E: TryFrom<i32> + Into<i32> + Copy>(
    number: i32,
    field: &str,
) -> Result<E, InvalidField> {
    match E::try_from(number) {
        Ok(_) if number == 0 => Err(InvalidField::new(field, "is required")),
        Ok(value) => Ok(value),
        Err(_) => {
            Err(InvalidField::new(field, format_args!("must be a known enum value; got {number}")))
        }
    }
}

fn platform(number: i32) -> Result<Platform, InvalidField> {
    match enum_value(number, "platform")? {
        wire::Platform::Unspecified => Err(InvalidField::new("platform", "is required")),
        wire::Platform::Apns => Ok(Platform::Apns),
        wire::Platform::Fcm => Ok(Platform::Fcm),
    }
}

fn environment(number: i32) -> Result<Environment, InvalidField> {
    match enum_value(number, "environment")? {
        wire::Environment::Unspecified => Err(InvalidField::new("environment", "is required")),
        wire::Environment::Production => Ok(Environment::Production),
        wire::Environment::Sandbox => Ok(Environment::Sandbox),
    }
}

fn lane_kind(number: i32) -> Result<LaneKind, InvalidField> {
    match enum_value(number, "lane_kind")? {
        wire::LaneKind::Unspecified => Err(InvalidField::new("lane_kind", "is required")),
        wire::LaneKind::Live => Ok(LaneKind::Live),
        wire::LaneKind::Test => Ok(LaneKind::Test),
    }
}

/// Checks an identity; unset means [`Identity::Device`].
fn identity(number: i32) -> Result<Identity, InvalidField> {
    if number == 0 {
        return Ok(Identity::Device);
    }
    match enum_value(number, "identity")? {
        wire::Identity::Unspecified | wire::Identity::Device => Ok(Identity::Device),
        wire::Identity::Token => Ok(Identity::Token),
    }
}

/// Checks the name of a gateway or credential, which has the form of an app id.
fn configured_name(name: String, field: &str) -> Result<String, InvalidField> {
    if name.is_empty() {
        return Err(InvalidField::new(field, "is required"));
    }
    AppName::from_id(&name).map_err(|e| e.within(field))?;
    Ok(name)
}

/// Checks a topic or project. It becomes a header value or part of a path, so its characters are
/// limited.
fn header_value(value: String, field: &str, is_required: bool) -> Result<String, InvalidField> {
    if value.is_empty() && is_required {
        return Err(InvalidField::new(field, "is required for this platform"));
    }
    if !value.is_empty() && !is_required {
        return Err(InvalidField::new(field, "must be empty for this platform"));
    }
    if value.len() > TOPIC_BYTES_MAX {
        return Err(InvalidField::new(
            field,
            format_args!("must be at most {TOPIC_BYTES_MAX} bytes; got {} bytes", value.len()),
        ));
    }
    if !value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
        return Err(InvalidField::new(
            field,
            "must contain only letters, digits, '.', '-' and '_'",
        ));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demo() -> wire::App {
        wire::App {
            name: "apps/demo".into(),
            platform: wire::Platform::Apns.into(),
            gateway: "apns-test".into(),
            credential: "team-key".into(),
            topic: "org.example.demo".into(),
            environment: wire::Environment::Sandbox.into(),
            lane_kind: wire::LaneKind::Test.into(),
            identity: wire::Identity::Device.into(),
            ..Default::default()
        }
    }

    #[test]
    fn round_trips() {
        let app = App::from_wire(demo()).expect("valid");
        assert_eq!(app.to_wire(), demo());
        assert_eq!((app.platform, app.identity), (Platform::Apns, Identity::Device));
        let unset = App::from_wire(wire::App { identity: 0, ..demo() }).expect("valid");
        assert_eq!(unset, app);
        let token = wire::App { identity: wire::Identity::Token.into(), ..demo() };
        assert_eq!(App::from_wire(token.clone()).expect("valid").to_wire(), token);
    }

    #[test]
    fn names_the_field() {
        let refused = |change: fn(&mut wire::App)| {
            let mut app = demo();
            change(&mut app);
            App::from_wire(app).expect_err("must be refused").field
        };
        assert_eq!(refused(|a| a.name = "demo".into()), "name");
        assert_eq!(refused(|a| a.platform = 0), "platform");
        assert_eq!(refused(|a| a.platform = 99), "platform");
        assert_eq!(refused(|a| a.gateway.clear()), "gateway");
        assert_eq!(refused(|a| a.credential = "Team Key".into()), "credential");
        assert_eq!(refused(|a| a.topic.clear()), "topic");
        assert_eq!(refused(|a| a.topic = "org.example\r\nx: y".into()), "topic");
        assert_eq!(refused(|a| a.project = "p".into()), "project");
        assert_eq!(refused(|a| a.environment = 0), "environment");
        assert_eq!(refused(|a| a.lane_kind = 0), "lane_kind");
        assert_eq!(refused(|a| a.identity = 3), "identity");
        assert_eq!(refused(|a| a.display_name = "x".repeat(129)), "display_name");
    }
}
