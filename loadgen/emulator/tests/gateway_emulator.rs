//! The gateway emulator seen from outside: by frames, by an independent HTTP/2 client over TLS, and
//! by its record.

mod gateway_emulator {
    pub(crate) mod bench;
    pub(crate) mod client;
    pub(crate) mod sender;

    mod caches;
    mod clients;
    mod conversation;
    mod distance;
    mod faults;
    mod fates;
    mod fcm_answers;
    mod fcm_clients;
    mod fcm_conversation;
    mod fcm_hostile;
    mod fcm_quota;
    mod hostile;
    mod identities;
    mod oauth;
    mod process;
    mod settings;
    mod trouble;
    mod record;
}
