//! Names of the figures of a case in a series. Expectations use the names, the report has the
//! values.

/// What is known of a case by the end of it; expectations are about these.
pub const FIGURES: &[&str] = &[
    // Of all alerts of the case together, the last, undisturbed one included.
    "alerts",
    // Alerts that ended in another state than RESOLVED.
    "unresolved",
    // By the gateways' records: requests, and of those the ones that were not plainly accepted.
    "requests",
    "struck",
    // Devices accepted at least once in an alert; called dead.
    "accepted",
    "dead_tokens",
    // Inside, alive, never accepted.
    "missed",
    "missed_apns",
    "missed_fcm",
    // Of those, more than the cluster tells as refused, unknown or expired.
    "untold",
    "outside",
    "duplicates",
    // Acceptances after the first that the gateway caused: it left a request unanswered, or failed
    // it.
    "repeated",
    // Of those, more than the cluster counts requests without an answer, and put off.
    "repeats_uncounted",
    "unknown",
    "strangers",
    // Of alerts that had ended: the cluster had told these requests as unanswered, and a gateway
    // that had stopped reading went on with what lay before it.
    "late_requests",
    // Requests that the gateway left unanswered; of those, how many fewer the cluster counted,
    // alert by alert.
    "unanswered_requests",
    "unanswered_uncounted",
    // |accepted reported - recorded| + |dead reported - recorded|, alert by alert.
    "disagreement",
    // What the cluster tells of.
    "refused",
    "expired",
    "retried_requests",
    // Alerts whose watcher was told of a lane's trouble; of an app whose devices are kept though
    // called dead.
    "troubled",
    "alarmed",
    // Lane troubles that did not say why, or not since when.
    "speechless",
    // Dead and refused devices beyond the reasons told, and the other way round, alert by alert.
    "unexplained",
    // In the undisturbed alert at the end: devices inside to which nothing was sent; and those
    // never called dead.
    "lost",
    "lost_alive",
    // Connections that were accepted by a gateway, ended, ended in the handshake, ended by an error
    // of the lane's HTTP/2.
    "connections_opened",
    "connections_closed",
    "handshakes_failed",
    "protocol_errors",
    // Of the worst shard node, over its most in the undisturbed alert right before; and over that
    // in the first case.
    "shard_growth_bytes",
    "shard_grown_bytes",
    // From the end of the trouble until half of what it had held up was accepted, and until every
    // alert had ended; and what the undisturbed one took.
    "recovery_seconds",
    "calm_seconds",
    "proof_seconds",
    // Acceptances a second while the trouble acted, and how long it did.
    "rate_per_second",
    "seconds",
];
