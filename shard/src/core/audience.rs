//! The audience of a wave and the message for each device: apps, segments and locales resolved to
//! the indices of this core.
//!
//! A device row names its app, locale and segments by index. The meaning of an index for a wave is
//! computed for the first device that has it, and stored. So the ten-thousandth device costs two
//! loads and no comparison of text.

use clarion_proto::{
    ids::{AppName, LaneId},
    locale::Chooser,
};

use super::templates::TemplateIds;
use crate::{
    command::{AppSpec, MessageSpec},
    lane::{connection::TemplateSpec, evidence::MessageEvidence},
    outcome::Answers,
    partition::{AppIndex, LocaleIndex, Pushable, Vocabulary},
    wave::{Program, ProgramError, SegmentOp},
};

/// Value of an index that has not been resolved yet.
const UNRESOLVED: u16 = u16::MAX;
/// Value of an app that the wave does not address.
const NOT_ADDRESSED: u16 = u16::MAX - 1;

/// The audience of one wave on one core.
#[derive(Debug)]
pub(crate) struct Audience {
    program: Program,
    apps: Vec<App>,
    /// Position in `apps`, indexed by `AppIndex`.
    app_of: Vec<u16>,
}

/// One app of a wave.
#[derive(Debug)]
pub(crate) struct App {
    spec: AppSpec,
    /// Index of the outlet of the app's lane.
    pub(crate) outlet: u16,
    /// Whether the app's messages have a common header that cannot be written, so that no push of
    /// the app is sent.
    pub(crate) stopped: bool,
    messages: Vec<Message>,
    /// Choice of a message by locale; the first message is the fallback.
    chooser: Chooser,
    /// Position in `messages`, indexed by `LocaleIndex`.
    message_of: Vec<u16>,
}

/// One message of one app.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) template: u32,
    pub(crate) spec: TemplateSpec,
    /// Outcomes of the message's devices.
    pub(crate) answers: Answers,
    /// Answers that call the message wrong.
    pub(crate) evidence: MessageEvidence,
}

impl Audience {
    /// Creates the audience; `outlet_of` returns the outlet of each app's lane.
    ///
    /// # Errors
    /// If the expression over segments is invalid.
    pub(crate) fn new(
        apps: &[AppSpec],
        segments: &[SegmentOp],
        ids: &mut TemplateIds,
        outlet_of: impl Fn(&AppSpec) -> u16,
    ) -> Result<Self, ProgramError> {
        let program = Program::compile(segments)?;
        let apps = apps.iter().map(|spec| App::new(spec, outlet_of(spec), ids)).collect();
        Ok(Self { program, apps, app_of: Vec::new() })
    }

    /// Returns the app of a device, if the device is addressed.
    pub(crate) fn addressed(&mut self, words: &Vocabulary, device: &Pushable<'_>) -> Option<u16> {
        let app = self.app_of(words, device.app)?;
        self.program.matches(words, device.segments).then_some(app)
    }

    /// Returns the app of an index, if the wave addresses it.
    pub(crate) fn app_of(&mut self, words: &Vocabulary, index: AppIndex) -> Option<u16> {
        let at = usize::from(index.0);
        if self.app_of.len() <= at {
            self.app_of.resize(at + 1, UNRESOLVED);
        }
        if self.app_of[at] == UNRESOLVED {
            let found = words
                .app(index)
                .and_then(|name| self.apps.iter().position(|a| a.spec.app == *name));
            self.app_of[at] = found.and_then(|n| u16::try_from(n).ok()).unwrap_or(NOT_ADDRESSED);
        }
        Some(self.app_of[at]).filter(|app| *app != NOT_ADDRESSED)
    }

    /// Returns an app by its position.
    pub(crate) fn app(&mut self, app: u16) -> &mut App {
        &mut self.apps[usize::from(app)]
    }

    /// Returns the name of an app and the lane of its pushes.
    pub(crate) fn name_and_lane(&self, app: u16) -> (AppName, LaneId) {
        let spec = &self.apps[usize::from(app)].spec;
        (spec.app.clone(), spec.lane)
    }

    /// Returns the totals of outcomes for each app.
    pub(crate) fn answers(&self) -> impl Iterator<Item = (LaneId, AppName, Answers)> + '_ {
        self.apps.iter().map(|app| {
            let mut sum = Answers::default();
            app.messages.iter().for_each(|message| sum.add(&message.answers));
            (app.spec.lane, app.spec.app.clone(), sum)
        })
    }

    /// Returns the numbers of all templates in use.
    pub(crate) fn templates(&self) -> impl Iterator<Item = u32> + '_ {
        self.apps.iter().flat_map(|app| app.messages.iter().map(|m| m.template))
    }
}

impl App {
    fn new(spec: &AppSpec, outlet: u16, ids: &mut TemplateIds) -> Self {
        let message = |message: &MessageSpec| Message {
            template: ids.take(),
            spec: TemplateSpec {
                request: spec.request.clone(),
                body: message.body.clone(),
                body_after_token: message.body_after_token.clone(),
            },
            answers: Answers::default(),
            evidence: MessageEvidence::default(),
        };
        let messages = spec.messages.iter().map(message).collect();
        let chooser = Chooser::new(spec.messages.iter().map(|message| message.locale.as_str()));
        let spec = spec.clone();
        Self { spec, outlet, stopped: false, messages, chooser, message_of: Vec::new() }
    }

    /// Returns the name of the app.
    pub(crate) fn name(&self) -> &AppName {
        &self.spec.app
    }

    /// Returns the position of the message for a locale.
    pub(crate) fn message_for(&mut self, words: &Vocabulary, locale: LocaleIndex) -> u16 {
        if locale == LocaleIndex::UNKNOWN {
            return 0;
        }
        let at = usize::from(locale.0);
        if self.message_of.len() <= at {
            self.message_of.resize(at + 1, UNRESOLVED);
        }
        if self.message_of[at] == UNRESOLVED {
            let message = self.chooser.choose(words.locale(locale)).unwrap_or(0);
            self.message_of[at] = u16::try_from(message).unwrap_or(0);
        }
        self.message_of[at]
    }

    /// Returns a message by its position.
    pub(crate) fn message(&mut self, message: u16) -> &mut Message {
        &mut self.messages[usize::from(message)]
    }
}
