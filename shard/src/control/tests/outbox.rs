//! No input makes more commands than the node keeps room for.

use clarion_proto::{ids::LogIdentity, limits::WAVES_MAX};

use super::{support::*, *};

/// Commands for each core since the last call.
fn counted(bench: &mut Bench) -> [usize; 2] {
    let mut counts = [0; 2];
    bench.commands().into_iter().for_each(|(core, _)| counts[core] += 1);
    counts
}

#[test]
fn a_grant_or_the_end_of_every_wave_fits() {
    let mut bench = Bench::new(2);
    bench.open();
    bench.say(ownership(1, &[0, 1]));
    bench.say(lane(1));
    let waves = 1..=WAVES_MAX as u64;
    for id in waves.clone() {
        bench.say(wave(id, 1, 1, &[0, 1]));
    }
    let taken = counted(&mut bench);
    assert!(taken.iter().all(|commands| *commands > WAVES_MAX), "every wave is on both cores");
    // The node asks for leave, and the answer is for every wave.
    bench.now = bench.now + Duration::from_secs(1);
    bench.control.expire(bench.now);
    let nonce = bench.messages().into_iter().find_map(|message| match message {
        Wire::LeaseRequest(request) if request.waves.len() == WAVES_MAX => Some(request.nonce),
        _ => None,
    });
    let nonce = nonce.expect("leave is asked for every wave");
    counted(&mut bench);
    let granted = |wave| wire::WaveGrant { wave, rate_millis_per_second: 0, epoch: 1 };
    let grants = waves.map(granted).collect();
    let grant = wire::Grant { nonce, lease_ms: 5_000, waves: grants };
    bench.say(wire::session_request::Message::Grant(grant));
    let granted = counted(&mut bench);
    assert!(granted.iter().all(|n| (WAVES_MAX..=INPUT_COMMANDS_MAX).contains(n)), "{granted:?}");
    // Another log: every wave ends at once.
    bench.close_of(1);
    bench.now = bench.now + Duration::from_secs(60);
    counted(&mut bench);
    bench.control.open(&opened(2, LogIdentity([2; 16])), bench.now).expect("the former is gone");
    let ended = counted(&mut bench);
    assert!(ended.iter().all(|n| (WAVES_MAX..=INPUT_COMMANDS_MAX).contains(n)), "{ended:?}");
}
