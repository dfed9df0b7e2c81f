//! The APNs emulator seen from outside: by frames, by an independent HTTP/2 client over TLS, and by its record.

mod gateway_emulator {
    pub(crate) mod support;

    mod clients;
    mod conversation;
    mod faults;
    mod hostile;
    mod record;
}
