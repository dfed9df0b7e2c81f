//! Names of the figures of a case in a series. Expectations use the names, the report has the
//! values.

/// Figures of a case at its end, to which expectations refer.
pub const FIGURES: &[&str] = &[
    // Of all alerts of the case together, including the last, undisturbed one.
    "alerts",
    // Alerts that ended in another state than RESOLVED.
    "unresolved",
    // By the gateways' records: requests, and those of them that were not plainly accepted.
    "requests",
    "struck",
    // Devices accepted at least once in an alert; devices called dead.
    "accepted",
    "dead_tokens",
    // Devices inside with a live token that were never accepted.
    "missed",
    "missed_apns",
    "missed_fcm",
    // Missed devices beyond those that the cluster reports as refused, unknown or expired.
    "untold",
    "outside",
    "duplicates",
    // Acceptances after the first that the gateway caused: it left a request unanswered, or failed
    // it.
    "repeated",
    // Repeated acceptances beyond the requests that the cluster counts as unanswered or deferred.
    "repeats_uncounted",
    "unknown",
    "strangers",
    // Requests of alerts that had ended: the cluster had reported them as unanswered, and a gateway
    // that had stopped reading continued with requests that it had not read.
    "late_requests",
    // Requests that the gateway left unanswered; and by how many fewer the cluster counted, alert
    // by alert.
    "unanswered_requests",
    "unanswered_uncounted",
    // |accepted reported - recorded| + |dead reported - recorded|, alert by alert.
    "disagreement",
    // Outcomes that the cluster reports.
    "refused",
    "expired",
    "retried_requests",
    // Alerts whose watcher got a report of a lane's trouble; and of an app whose devices are kept
    // although called dead.
    "troubled",
    "alarmed",
    // Lane troubles without a reason or without a start.
    "speechless",
    // Dead and refused devices beyond the reported reasons, and the other way round, alert by
    // alert.
    "unexplained",
    // In the undisturbed alert at the end: devices inside without a request; and those of them
    // never called dead.
    "lost",
    "lost_alive",
    // Connections that a gateway accepted, that ended, that ended in the handshake, that ended
    // because of an error of the lane's HTTP/2.
    "connections_opened",
    "connections_closed",
    "handshakes_failed",
    "protocol_errors",
    // Memory growth of the worst shard node over its peak in the undisturbed alert right before;
    // and over that in the first case.
    "shard_growth_bytes",
    "shard_grown_bytes",
    // Time from the end of the fault until half of the delayed pushes were accepted, and until
    // every alert had ended; and the time of the undisturbed alert.
    "recovery_seconds",
    "calm_seconds",
    "proof_seconds",
    // Acceptances per second while the fault acted, and its duration.
    "rate_per_second",
    "seconds",
];
