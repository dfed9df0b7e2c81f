//! Evidence that a token is dead before its registration is removed. Pure.
//!
//! APNs answers `400 BadDeviceToken` to a dead token and to every token of the other environment.
//! FCM's `INVALID_ARGUMENT` is as ambiguous. Such an answer is believed only beside acceptances of
//! the same app on the same lane. APNs' 410 and FCM's UNREGISTERED mean one token only; the caller
//! of this module prunes those tokens without asking.
//!
//! Each app on its lane is in one of three standings:
//!
//! ```text
//! Unaccepted ──first acceptance──▶ Settling ──1 s──▶ Accepted
//! ```
//!
//! | standing | a token called bad | what becomes of a waiting token |
//! |---|---|---|
//! | Unaccepted: nothing accepted so far | waits | it waits for the first acceptance |
//! | Settling: the second after it | waits | at its end all are pruned; or all are dropped, if they are 20 or more and over a fifth of what was called bad or accepted |
//! | Accepted, usual share | waits | it is pruned after 1 to 2 s |
//! | Accepted, unusual share (alarm) | is dropped | all were dropped when the alarm started |
//!
//! The **share** is the tokens called bad among the tokens called bad or accepted, of the last 200
//! to 400 answers (more where one report has more). A share is unusual if it is over a fifth and at
//! least 20 tokens were called bad; then the app has an alarm. Without any acceptance 20 bad tokens
//! are enough for that. 20 is also the smallest count that callers may be told (`privacy.rs`).
//!
//! Why tokens wait where the share is usual: when a gateway starts to call everything bad, the
//! first bad tokens follow acceptances and look usual. One second later the share shows the change.
//! At 200 answers a second and more such a change prunes no device. On a slower lane it prunes at
//! most a fifth of the window: 80 devices.
//!
//! Why an alarm drops tokens and does not keep them: the trouble may be the gateway's and the
//! devices alive. The next alert finds a dead token again.
//!
//! Memory: [`WAITING_MAX`] tokens over all apps at about 100 bytes, 1 MiB; [`APPS_MAX`] apps at
//! about 300 bytes, 1.2 MiB.

use std::{collections::BTreeMap, time::Duration};

use clarion_proto::{
    ids::{DeviceId, UnixMillis},
    time::Time,
};
use clarion_runtime::{repeated::Repeated, world::Moment};

use crate::{lane::AppLane, privacy::TOLD_MIN, progress::Answers};

/// Most tokens that wait, over all apps. A wave of 1,000,000 pushes a second of which 1 % are bad
/// adds 10,000 in a second.
pub(crate) const WAITING_MAX: usize = 10_000;
/// A usual share is at most one bad token in this many.
const BAD_USUAL: u64 = 5;
/// Fewer bad tokens than this are never unusual.
const BAD_MIN: u64 = TOLD_MIN;
/// Answers in each half of the window. If 10 % of all tokens are bad, more than a fifth of 200 is
/// 4.7 standard deviations away.
const HALF_MIN: u64 = 200;
/// Shortest time that a token waits for the answers to other tokens.
const SETTLE: Duration = Duration::from_secs(1);
/// Most apps that are watched. Of further apps no token is pruned for being called bad.
const APPS_MAX: usize = 4_096;

/// A token that a gateway calls bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadToken {
    pub(crate) device: DeviceId,
    pub(crate) token_hash: u64,
    /// When the coordinator heard the gateway's answer: a later registration of the device stays,
    /// however long the token has waited.
    pub(crate) heard: UnixMillis,
}

impl From<(DeviceId, (u64, UnixMillis))> for BadToken {
    fn from((device, (token_hash, heard)): (DeviceId, (u64, UnixMillis))) -> Self {
        Self { device, token_hash, heard }
    }
}

/// An app whose devices are kept although the gateway calls their tokens bad.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Alarm {
    pub(crate) of: AppLane,
    pub(crate) since: UnixMillis,
    /// Tokens called bad, and not pruned, since then.
    pub(crate) withheld: u64,
    /// Whether the gateway accepted any push of the app.
    pub(crate) accepted_any: bool,
}

/// Answers and waiting tokens of all apps.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    apps: BTreeMap<AppLane, App>,
    /// Number of waiting tokens over all apps.
    waiting: usize,
    /// Number of changes of alarms so far.
    changes: u64,
}

#[derive(Debug, Default)]
struct App {
    standing: Standing,
    recent: Window,
    /// Waiting tokens that were called bad since the last turn, with their hashes and when.
    young: BTreeMap<DeviceId, (u64, UnixMillis)>,
    /// Waiting tokens that were called bad before the last turn.
    old: BTreeMap<DeviceId, (u64, UnixMillis)>,
    /// Time of the next turn: old tokens are pruned, young tokens become old.
    turn: Option<Time>,
    alarm: Option<UnixMillis>,
    /// Tokens called bad and not pruned since the alarm started; without acceptances, in all.
    withheld: u64,
    said: Repeated,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Standing {
    #[default]
    Unaccepted,
    /// Number accepted so far, from the first acceptance.
    Settling(u64),
    Accepted,
}

/// The last answers: two halves, the older one dropped when the newer is full.
#[derive(Debug, Default)]
struct Window([Answers; 2]);

impl Evidence {
    /// Takes new answers and tokens called bad; returns the tokens to prune. Counts the answers
    /// first, so that a report with an unusual share prunes no token.
    pub(crate) fn hear(
        &mut self,
        answers: &BTreeMap<AppLane, Answers>,
        bad: impl IntoIterator<Item = (AppLane, BadToken)>,
        now: Moment,
    ) -> Vec<BadToken> {
        for (of, new) in answers.iter().filter(|(_, new)| new.accepted + new.bad > 0) {
            self.of_app(of, |app, _| {
                app.count(*new, now.at);
                app.judge(of, now);
            });
        }
        let bad = bad.into_iter();
        bad.filter_map(|(of, token)| {
            self.of_app(&of, |app, room| app.called_bad(token, room, now.at)).flatten()
        })
        .collect()
    }

    /// Returns the tokens that have waited long enough, to be pruned.
    pub(crate) fn expire(&mut self, now: Moment) -> Vec<BadToken> {
        let due = |app: &App| app.turn.is_some_and(|turn| turn <= now.at);
        let due: Vec<AppLane> =
            self.apps.iter().filter(|(_, app)| due(app)).map(|(of, _)| of.clone()).collect();
        let turned = due.iter().filter_map(|of| {
            self.of_app(of, |app, _| {
                let pruned = app.turn_over(now.at);
                app.judge(of, now);
                pruned
            })
        });
        turned.flatten().collect()
    }

    /// The next time at which [`Self::expire`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.apps.values().filter_map(|app| app.turn).min()
    }

    /// Alarms that may be published, by app.
    pub(crate) fn alarms(&self) -> impl Iterator<Item = Alarm> {
        self.apps.iter().filter_map(|(of, app)| {
            let (since, withheld) = app.told()?;
            let accepted_any = app.standing != Standing::Unaccepted;
            Some(Alarm { of: of.clone(), since, withheld, accepted_any })
        })
    }

    /// A counter that changes whenever [`Self::alarms`] changes.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Changes an app and updates the totals; passes to `change` whether one more token may wait.
    fn of_app<T>(&mut self, of: &AppLane, change: impl FnOnce(&mut App, bool) -> T) -> Option<T> {
        if !self.apps.contains_key(of) {
            if self.apps.len() >= APPS_MAX {
                return None;
            }
            self.apps.insert(of.clone(), App::default());
        }
        let app = self.apps.get_mut(of)?;
        let (waiting, told) = (app.waiting(), app.told());
        let done = change(app, self.waiting < WAITING_MAX);
        self.waiting = self.waiting - waiting + app.waiting();
        self.changes += u64::from(app.told() != told);
        Some(done)
    }
}

impl App {
    fn waiting(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// The alarm, if it may be published: its start, and the number of withheld tokens.
    fn told(&self) -> Option<(UnixMillis, u64)> {
        self.alarm.filter(|_| self.withheld >= TOLD_MIN).map(|since| (since, self.withheld))
    }

    fn count(&mut self, new: Answers, now: Time) {
        self.recent.count(new);
        match &mut self.standing {
            Standing::Unaccepted if new.accepted > 0 => {
                (self.standing, self.turn) = (Standing::Settling(new.accepted), Some(now + SETTLE));
            }
            Standing::Settling(accepted) => *accepted += new.accepted,
            Standing::Unaccepted | Standing::Accepted => {}
        }
    }

    /// Starts or ends the alarm, by the share of bad tokens in the last answers.
    fn judge(&mut self, of: &AppLane, now: Moment) {
        let unusual = is_unusual(self.recent.sum());
        match (self.alarm, unusual) {
            // The share is judged at the end of `Settling`.
            _ if matches!(self.standing, Standing::Settling(_)) => {}
            (None, true) => {
                if self.standing == Standing::Accepted {
                    self.withheld += self.waiting() as u64;
                    (self.young, self.old, self.turn) = (BTreeMap::new(), BTreeMap::new(), None);
                }
                self.alarm = Some(now.wall);
                if let Some(times) = self.said.note("", now.at.since(Time(0))) {
                    let (app, lane) = (of.0.name(), of.1.0);
                    let Answers { accepted, bad } = self.recent.sum();
                    tracing::error!(
                        app,
                        lane,
                        bad,
                        accepted,
                        times,
                        "pruning stopped for an app: its gateway calls an unusual share of tokens \
                         bad; check environment, topic or project"
                    );
                }
            }
            (Some(_), false) => {
                tracing::warn!(
                    app = of.0.name(),
                    lane = of.1.0,
                    withheld = self.withheld,
                    "pruning resumed for an app: the share of bad tokens is usual again"
                );
                (self.alarm, self.withheld) = (None, 0);
            }
            (None, false) | (Some(_), true) => {}
        }
    }

    /// Takes a token that was called bad; `room`: one more token may wait. Returns a token to prune
    /// if there is no room.
    fn called_bad(&mut self, token: BadToken, room: bool, now: Time) -> Option<BadToken> {
        let mut pruned = None;
        match self.standing {
            Standing::Accepted if self.alarm.is_some() => {
                self.withheld += 1;
                return None;
            }
            Standing::Accepted => {
                if !room {
                    // The share is usual: the oldest token is pruned early. Without one, the token
                    // itself.
                    pruned = self.old.pop_first().or_else(|| self.young.pop_first());
                    if pruned.is_none() {
                        return Some(token);
                    }
                }
                self.turn.get_or_insert(now + SETTLE);
            }
            Standing::Unaccepted | Standing::Settling(_) => {
                self.withheld += 1;
                if !room {
                    return None;
                }
            }
        }
        self.young.insert(token.device, (token.token_hash, token.heard));
        pruned.map(BadToken::from)
    }

    /// Takes the tokens that are to be pruned; young tokens become old.
    fn turn_over(&mut self, now: Time) -> Vec<BadToken> {
        let mut pruned = std::mem::take(&mut self.old);
        let young = std::mem::take(&mut self.young);
        self.turn = None;
        if let Standing::Settling(accepted) = self.standing {
            self.standing = Standing::Accepted;
            pruned.extend(young);
            if is_unusual(Answers { accepted, bad: pruned.len() as u64 }) {
                pruned.clear();
            } else if self.alarm.is_none() {
                self.withheld = 0;
            }
        } else if !young.is_empty() {
            (self.old, self.turn) = (young, Some(now + SETTLE));
        }
        pruned.into_iter().map(BadToken::from).collect()
    }
}

/// Whether the share of bad tokens is too high to be usual.
fn is_unusual(Answers { accepted, bad }: Answers) -> bool {
    bad >= BAD_MIN && bad * BAD_USUAL > accepted + bad
}

impl Window {
    fn count(&mut self, new: Answers) {
        let full = |half: &Answers| half.accepted + half.bad >= HALF_MIN;
        if full(&self.0[1]) {
            self.0 = [self.0[1], Answers::default()];
        }
        self.0[1].accepted += new.accepted;
        self.0[1].bad += new.bad;
    }

    fn sum(&self) -> Answers {
        let [old, young] = self.0;
        Answers { accepted: old.accepted + young.accepted, bad: old.bad + young.bad }
    }
}

#[cfg(test)]
mod tests;
