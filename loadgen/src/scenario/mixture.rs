//! A mixture of many kinds of faults at once, drawn from a seed: combinations that no person would
//! think of.
//!
//! Time is divided into steps. For each step and each gateway some faults are drawn from all that
//! the emulator of this platform supports, each with its own size, and act together until the next
//! step. The same seed gives the same faults, step by step.
//!
//! Not drawn: faults that make a lane wait for longer than a step by contract (a used-up quota, a
//! refused credential, an expired certificate, a storm of dead tokens). Each of these is a case of
//! its own.

use clarion_emulator::{
    Faults, Platform,
    answer::{Reason, RetryAfter},
    faults::{Action, Credit, Errors, Handshake, Latency, Repeat, Silence, Silent},
    frame::Code,
    script::{Fate, Rule, Scripted},
};
use serde::Deserialize;

use crate::population::draws::Draws;

/// Specification of a random mixture of faults.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixtureSpec {
    /// Seed of the whole mixture.
    pub seed: u64,
    /// Length of a step, milliseconds.
    pub every_ms: u64,
    /// Most kinds of faults in one step.
    pub pieces_max: usize,
}

/// Domain of [`Draws`] for mixtures only.
const DOMAIN: u64 = 0x4D49_5854;

/// One kind of fault: a function that adds it to the faults of a step.
type Piece = fn(&mut Faults, &mut Draws, Platform);

/// Every kind of fault that a mixture can contain.
const PIECES: &[Piece] = &[
    farewell,
    two_step,
    refused,
    reset_streams,
    answered_and_reset,
    stalled,
    tcp_resets,
    late_credit,
    negative_windows,
    stream_limits,
    settings,
    put_off,
    unavailable,
    delivered_and_denied,
    by_chance,
    dead,
    slow_handshakes,
    far,
    deaf,
];

impl MixtureSpec {
    /// Checks the values of the specification.
    pub(super) fn check(&self) -> Result<(), String> {
        match self {
            Self { every_ms, .. } if !(1_000..=600_000).contains(every_ms) => {
                Err(format!("mixture.every_ms: must be 1,000 to 600,000; got {every_ms}"))
            }
            Self { pieces_max, .. } if !(1..=PIECES.len()).contains(pieces_max) => {
                Err(format!("mixture.pieces_max: must be 1 to {}; got {pieces_max}", PIECES.len()))
            }
            _ => Ok(()),
        }
    }

    /// Returns the faults of a platform's gateway in a step.
    #[must_use]
    pub fn faults(&self, platform: Platform, step: u64) -> Faults {
        let mut draws = Draws::new(self.seed, DOMAIN + platform as u64, step);
        let mut faults = Faults { seed: draws.bits(), ..Faults::default() };
        for _ in 0..=draws.below(self.pieces_max) {
            PIECES[draws.below(PIECES.len())](&mut faults, &mut draws, platform);
        }
        faults
    }
}

fn between(draws: &mut Draws, from: usize, to: usize) -> u64 {
    (from + draws.below(to - from + 1)) as u64
}

fn ppm(draws: &mut Draws, from: usize, to: usize) -> u32 {
    u32::try_from(between(draws, from, to)).expect("a part of a million")
}

fn repeat(every_ms: u64, turns: Vec<Action>) -> Repeat {
    Repeat { every_ms, turns, duration_ms: 0 }
}

fn errors(fate: Fate, reason: Reason, ppm: u32) -> Errors {
    Errors {
        fate,
        reason,
        status: None,
        times: None,
        ppm,
        connections_ppm: 1_000_000,
        delivered: false,
        retry_after: None,
        duration_ms: 0,
        every_ms: 0,
    }
}

fn goaway(platform: Platform, draws: &mut Draws) -> Action {
    let (reason, text, code) = match (platform, draws.below(3)) {
        (_, 0) => (None, None, Code::NoError),
        (Platform::Apns, 1) => (Some(Reason::Shutdown), None, Code::NoError),
        (Platform::Apns, _) => (Some(Reason::IdleTimeout), None, Code::NoError),
        (Platform::Fcm, 1) => (None, Some("session_timed_out".to_owned()), Code::NoError),
        (Platform::Fcm, _) => {
            (None, Some("exceeded_max_concurrent_streams".to_owned()), Code::ProtocolError)
        }
    };
    Action::Goaway {
        reason,
        text,
        code,
        two_step_ms: None,
        refuse_open: false,
        connections: Some(1),
    }
}

fn farewell(faults: &mut Faults, draws: &mut Draws, platform: Platform) {
    let action = goaway(platform, draws);
    faults.repeat.push(repeat(between(draws, 500, 2_000), vec![action]));
}

fn two_step(faults: &mut Faults, draws: &mut Draws, _: Platform) {
    let (two_step_ms, refuse_open) = (Some(between(draws, 1, 50)), draws.below(2) == 0);
    let (reason, text, code) = (None, None, Code::NoError);
    let action =
        Action::Goaway { reason, text, code, two_step_ms, refuse_open, connections: Some(1) };
    faults.repeat.push(repeat(between(draws, 500, 2_000), vec![action]));
}

fn refused(faults: &mut Faults, draws: &mut Draws, _: Platform) {
    faults.errors.push(errors(Fate::Refuse, Reason::None, ppm(draws, 100, 10_000)));
}

fn reset_streams(faults: &mut Faults, draws: &mut Draws, _: Platform) {
    let ppm = ppm(draws, 10, 500);
    faults
        .errors
        .push(Errors { delivered: draws.below(2) == 0, ..errors(Fate::Reset, Reason::None, ppm) });
}

fn answered_and_reset(faults: &mut Faults, draws: &mut Draws, _: Platform) {
    faults.errors.push(errors(Fate::AnswerThenReset, Reason::None, ppm(draws, 100, 10_000)));
}

fn stalled(faults: &mut Faults, draws: &mut Draws, _: Platform) {
    let ppm = ppm(draws, 1, 20);
    faults
        .errors
        .push(Errors { delivered: draws.below(2) == 0, ..errors(Fate::Stall, Reason::None, ppm) });
}

fn tcp_resets(faults: &mut Faults, draws: &mut Draws, _: Platform) {
    faults
        .repeat
        .push(repeat(between(draws, 700, 2_000), vec![Action::Reset { connections: Some(1) }]));
}

fn late_credit(faults: &mut Faults, draws: &mut Draws, _: Platform) {
    faults.credit = Credit { delay_us: between(draws, 1_000, 30_000), duration_ms: 0 };
}

fn negative_windows(faults: &mut Faults, draws: &mut Draws, _: Platform) {
    let window = |initial_window| Action::Settings {
        initial_window: Some(initial_window),
        header_table: None,
        header_list: None,
        unknown: false,
    };
    let narrow = u32::try_from(between(draws, 0, 600)).expect("small");
    // The last turn before the next step, after a second at least, is the wide window.
    let (every_ms, turns) = (between(draws, 20, 100), vec![window(narrow), window(65_535)]);
    faults.repeat.push(Repeat { every_ms, turns, duration_ms: every_ms * 8 });
}

fn stream_limits(faults: &mut Faults, draws: &mut Draws, _: Platform) {
    let (few, many) = (Action::StreamsMax { streams: 1 }, Action::StreamsMax { streams: 1_500 });
    // A quarter of the time at one stream; the last turn is the large limit.
    let every_ms = between(draws, 20, 80);
    faults.repeat.push(Repeat {
        every_ms,
        turns: vec![few, many.clone(), many.clone(), many],
        duration_ms: every_ms * 12,
    });
}

fn settings(faults: &mut Faults, draws: &mut Draws, _: Platform) {
    let table = |header_table| Action::Settings {
        initial_window: None,
        header_table: Some(header_table),
        header_list: Some(16_384),
        unknown: true,
    };
    faults.repeat.push(repeat(between(draws, 50, 500), vec![table(0), table(4_096)]));
}

fn put_off(faults: &mut Faults, draws: &mut Draws, platform: Platform) {
    // APNs has a reason for one throttled token; FCM has none, so one token gets INTERNAL.
    let reason = match platform {
        Platform::Apns => Reason::TooManyRequests,
        Platform::Fcm => Reason::FcmInternal,
    };
    let times = Some(u32::try_from(between(draws, 1, 2)).expect("small"));
    let answer = Scripted { times, ..Scripted::always(reason) };
    faults.rules.push(Rule { ppm: ppm(draws, 10, 300), answer });
}

fn busy(platform: Platform) -> Reason {
    match platform {
        Platform::Apns => Reason::ServiceUnavailable,
        Platform::Fcm => Reason::FcmUnavailable,
    }
}

fn unavailable(faults: &mut Faults, draws: &mut Draws, platform: Platform) {
    let (part, duration_ms) = (ppm(draws, 50_000, 500_000), between(draws, 20, 150));
    let retry_after =
        (draws.below(4) == 0).then_some(RetryAfter { seconds: 1, date: draws.below(2) == 0 });
    let retry_after = retry_after.filter(|_| platform == Platform::Fcm);
    let burst = errors(Fate::Answer, busy(platform), part);
    faults.errors.push(Errors { retry_after, duration_ms, every_ms: 1_500, ..burst });
}

fn delivered_and_denied(faults: &mut Faults, draws: &mut Draws, platform: Platform) {
    let (part, duration_ms) = (ppm(draws, 50_000, 500_000), between(draws, 10, 100));
    let burst = errors(Fate::Answer, busy(platform), part);
    faults.errors.push(Errors { delivered: true, duration_ms, every_ms: 1_500, ..burst });
}

fn by_chance(faults: &mut Faults, draws: &mut Draws, platform: Platform) {
    let reason = match (platform, draws.below(2)) {
        (Platform::Apns, 0) => Reason::Shutdown,
        (Platform::Apns, _) => Reason::InternalServerError,
        (Platform::Fcm, 0) => Reason::FcmBadGateway,
        (Platform::Fcm, _) => Reason::FcmInternal,
    };
    faults.errors.push(errors(Fate::Answer, reason, ppm(draws, 1, 20)));
}

fn dead(faults: &mut Faults, draws: &mut Draws, platform: Platform) {
    let reason = match platform {
        Platform::Apns => Reason::Unregistered,
        Platform::Fcm => Reason::FcmUnregistered,
    };
    // A day before the registration, or now; FCM sends no time.
    let timestamp_offset_ms = if draws.below(2) == 0 { -86_400_000 } else { 0 };
    let answer = Scripted { timestamp_offset_ms, ..Scripted::always(reason) };
    faults.rules.push(Rule { ppm: ppm(draws, 1, 50), answer });
}

fn slow_handshakes(faults: &mut Faults, draws: &mut Draws, platform: Platform) {
    faults.handshake = Handshake {
        delay_ms: between(draws, 50, 400),
        connections_ppm: 500_000,
        ..Handshake::default()
    };
    farewell(faults, draws, platform);
}

fn far(faults: &mut Faults, draws: &mut Draws, _: Platform) {
    let p50_us = between(draws, 500, 5_000);
    faults.latency = Latency { p50_us, p99_us: p50_us * between(draws, 2, 5) };
}

/// Stops reading and writing on some connections for a while.
fn deaf(faults: &mut Faults, draws: &mut Draws, _: Platform) {
    let (mode, duration_ms) = (Silence::StopReading, between(draws, 50, 500));
    faults.silent = Some(Silent { mode, connections_ppm: 300_000, duration_ms });
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIXTURE: MixtureSpec = MixtureSpec { seed: 5, every_ms: 1_000, pieces_max: 3 };

    #[test]
    fn a_seed_decides_and_every_step_can_be_ordered() {
        let mut seen = std::collections::BTreeSet::new();
        for platform in Platform::ALL {
            for step in 0..500 {
                let faults = MIXTURE.faults(platform, step);
                assert_eq!(faults, MIXTURE.faults(platform, step));
                faults.check(platform).unwrap();
                let ppm: u32 = faults.rules.iter().map(|r| r.ppm).sum();
                assert!(ppm <= 1_000_000);
                seen.insert(format!("{faults:?}"));
            }
        }
        assert!(seen.len() > 900, "{}", seen.len());
        assert_ne!(
            MIXTURE.faults(Platform::Apns, 1),
            MixtureSpec { seed: 6, ..MIXTURE }.faults(Platform::Apns, 1)
        );
    }
}
