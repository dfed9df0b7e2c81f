//! An app: one application on one platform, and the lane that reaches it.

use crate::{error::InvalidField, ids::AppName, wire::v1 as wire};

/// Longest display name, bytes.
pub const DISPLAY_NAME_BYTES_MAX: usize = 128;
/// Longest topic or project, bytes. Bundle ids are limited to 155 characters by App Store Connect.
pub const TOPIC_BYTES_MAX: usize = 255;

/// A kind of push gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Platform {
    /// Apple Push Notification service.
    Apns,
    /// Firebase Cloud Messaging, HTTP v1.
    Fcm,
}

/// A provider's environment; a token of one is a bad token in the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Environment {
    /// Phones as sold.
    Production,
    /// Development builds.
    Sandbox,
}

/// Who is behind a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LaneKind {
    /// Real people's phones.
    Live,
    /// An emulator or a laboratory.
    Test,
}

/// What a caller says of an app. When it was made and its revision are the store's to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// `apps/{app}`.
    pub name: AppName,
    /// For people only.
    pub display_name: String,
    /// Fixed at creation.
    pub platform: Platform,
    /// Name of a configured gateway.
    pub gateway: String,
    /// Name of a configured credential.
    pub credential: String,
    /// APNs: `apns-topic`; else empty.
    pub topic: String,
    /// FCM: the project; else empty.
    pub project: String,
    /// Of its tokens.
    pub environment: Environment,
    /// Of its lane.
    pub lane_kind: LaneKind,
}

impl App {
    /// Checks the form. Whether gateway and credential are configured is the coordinator's to say.
    ///
    /// # Errors
    /// Names the field from the app inwards: `topic`.
    pub fn from_wire(app: wire::App) -> Result<Self, InvalidField> {
        let platform = platform(app.platform)?;
        if app.display_name.len() > DISPLAY_NAME_BYTES_MAX {
            let problem =
                format!("at most {DISPLAY_NAME_BYTES_MAX} bytes, has {}", app.display_name.len());
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
        })
    }

    /// For an answer; without `create_time` and `etag`.
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
        }
    }
}

/// Checks an enum's number: given, and one that this version knows.
pub(crate) fn known<E: TryFrom<i32> + Into<i32> + Copy>(
    number: i32,
    field: &str,
) -> Result<E, InvalidField> {
    match E::try_from(number) {
        Ok(_) if number == 0 => Err(InvalidField::new(field, "is required")),
        Ok(value) => Ok(value),
        Err(_) => Err(InvalidField::new(
            field,
            format_args!("must be a value that the contract knows, is {number}"),
        )),
    }
}

fn platform(number: i32) -> Result<Platform, InvalidField> {
    match known(number, "platform")? {
        wire::Platform::Unspecified => Err(InvalidField::new("platform", "is required")),
        wire::Platform::Apns => Ok(Platform::Apns),
        wire::Platform::Fcm => Ok(Platform::Fcm),
    }
}

fn environment(number: i32) -> Result<Environment, InvalidField> {
    match known(number, "environment")? {
        wire::Environment::Unspecified => Err(InvalidField::new("environment", "is required")),
        wire::Environment::Production => Ok(Environment::Production),
        wire::Environment::Sandbox => Ok(Environment::Sandbox),
    }
}

fn lane_kind(number: i32) -> Result<LaneKind, InvalidField> {
    match known(number, "lane_kind")? {
        wire::LaneKind::Unspecified => Err(InvalidField::new("lane_kind", "is required")),
        wire::LaneKind::Live => Ok(LaneKind::Live),
        wire::LaneKind::Test => Ok(LaneKind::Test),
    }
}

/// A name in the coordinator's configuration: of the same form as an app's own.
fn configured_name(name: String, field: &str) -> Result<String, InvalidField> {
    if name.is_empty() {
        return Err(InvalidField::new(field, "is required"));
    }
    AppName::from_id(&name).map_err(|e| e.within(field))?;
    Ok(name)
}

/// Goes into a header or a path as it is: visible ASCII only.
fn header_value(value: String, field: &str, is_required: bool) -> Result<String, InvalidField> {
    if value.is_empty() && is_required {
        return Err(InvalidField::new(field, "is required for this platform"));
    }
    if !value.is_empty() && !is_required {
        return Err(InvalidField::new(field, "belongs to another platform"));
    }
    if value.len() > TOPIC_BYTES_MAX {
        return Err(InvalidField::new(
            field,
            format_args!("at most {TOPIC_BYTES_MAX} bytes, has {}", value.len()),
        ));
    }
    if !value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
        return Err(InvalidField::new(field, "may hold letters, digits, '.', '-' and '_' only"));
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
            ..Default::default()
        }
    }

    #[test]
    fn round_trips() {
        let app = App::from_wire(demo()).expect("valid");
        assert_eq!(app.to_wire(), demo());
        assert_eq!(app.platform, Platform::Apns);
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
        assert_eq!(refused(|a| a.display_name = "x".repeat(129)), "display_name");
    }
}
