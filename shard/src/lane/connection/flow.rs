//! Flow control: bytes that the connection may send, and bytes that the peer may send (RFC 9113,
//! 5.2 and 6.9).
//!
//! A request's body is sent in one piece with its header as long as the windows allow, which is
//! nearly always. A stream keeps state only for a cut body; the body waits in the order of sending,
//! as a reference to the bytes of its template. A WINDOW_UPDATE may release a thousand of them at
//! once: their frames are encoded a burst at a time, as the socket takes them.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{
    error::ConnectionError,
    frames::{self, PAYLOAD_BYTES_MAX, flag, kind},
};

/// Size of windows before SETTINGS (RFC 9113, 6.9.2), bytes.
pub(crate) const WINDOW_DEFAULT: i64 = 65_535;

const WINDOW_MAX: i64 = (1 << 31) - 1;

/// Output below which cut bodies continue, bytes: two TLS records. Without a bound a connection
/// whose windows open again would encode the bodies of all its streams, and keep the memory for it.
const BURST_BYTES: usize = 32 * 1024;
/// Number of cut bodies at which no further request is sent: requests that cannot continue fill
/// streams and memory for nothing. This many are worth a write.
const CUT_MAX: usize = 64;
/// Capacity for cut bodies that is kept when there are none.
const PENDING_KEPT: usize = 32;

/// Windows that the peer has opened for us.
#[derive(Debug)]
pub(crate) struct SendWindows {
    connection: i64,
    /// Largest window of the connection so far, from which the peer's limit is known.
    widest: i64,
    /// Initial window of a new stream, bytes.
    initial: i64,
    /// Cut bodies in the order of their streams' ids; at most [`CUT_MAX`].
    pending: VecDeque<Pending>,
}

#[derive(Debug)]
struct Pending {
    id: u32,
    body: Bytes,
    sent: usize,
    window: i64,
}

impl SendWindows {
    pub(crate) fn new() -> Self {
        Self {
            connection: WINDOW_DEFAULT,
            widest: WINDOW_DEFAULT,
            initial: WINDOW_DEFAULT,
            pending: VecDeque::new(),
        }
    }

    /// Returns the number of bodies of this size that may be begun. The last may be cut: a peer
    /// that gives credit only for a used-up window would otherwise never give any.
    pub(crate) fn bodies(&self, size: usize) -> usize {
        match usize::try_from(self.connection) {
            _ if size == 0 => usize::MAX,
            _ if self.pending.len() >= CUT_MAX => 0,
            Ok(window) => window.div_ceil(size),
            Err(_) => 0,
        }
    }

    /// Returns the largest window of the connection so far, bytes.
    pub(crate) fn widest(&self) -> u64 {
        u64::try_from(self.widest).unwrap_or(0)
    }

    /// Takes the window for a body that fits completely. Returns `false` if it does not fit.
    pub(crate) fn take_whole(&mut self, size: usize) -> bool {
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        let fits = size <= self.connection && size <= self.initial;
        if fits {
            self.connection -= size;
        }
        fits
    }

    /// Sends the body of a stream just opened, as far as the windows allow; the rest follows with
    /// further credit.
    pub(crate) fn begin(&mut self, out: &mut Vec<u8>, id: u32, body: &Bytes) {
        let mut pending = Pending { id, body: body.clone(), sent: 0, window: self.initial };
        if !pending.send(out, &mut self.connection) {
            self.pending.push_back(pending);
        }
    }

    /// Removes a stream that ended. Returns `true` if its body was not sent completely, so that the
    /// peer must be told.
    pub(crate) fn forget(&mut self, id: u32) -> bool {
        let found = if self.pending.is_empty() { None } else { self.find(id) };
        found.map(|at| self.remove(at)).is_some()
    }

    /// Adds credit for the connection. Returns `true` if a cut body continues with it, now or after
    /// the pending burst.
    pub(crate) fn credit(
        &mut self,
        out: &mut Vec<u8>,
        credit: u32,
    ) -> Result<bool, ConnectionError> {
        if credit == 0 {
            return Err(ConnectionError::protocol("WINDOW_UPDATE of zero for the connection"));
        }
        let waited = self.connection <= 0;
        self.connection += i64::from(credit);
        if self.connection > WINDOW_MAX {
            return Err(ConnectionError::flow_control("connection window above 2^31-1"));
        }
        self.widest = self.widest.max(self.connection);
        let written = out.len();
        self.flush(out);
        Ok(out.len() > written || waited && self.has_more())
    }

    /// Adds credit for an open stream, and reports whether its body continues with it. A stream
    /// without a cut body needs none.
    ///
    /// # Errors
    /// If the credit is an error of the stream.
    pub(crate) fn credit_stream(
        &mut self,
        out: &mut Vec<u8>,
        id: u32,
        credit: u32,
    ) -> Result<bool, StreamError> {
        let mut goes_on = false;
        if let Some(at) = self.find(id) {
            let pending = &mut self.pending[at];
            let waited = pending.window <= 0;
            pending.window += i64::from(credit);
            if pending.window > WINDOW_MAX {
                return Err(StreamError);
            }
            let written = out.len();
            goes_on = waited && pending.may_send(self.connection);
            if out.len() < BURST_BYTES && pending.send(out, &mut self.connection) {
                self.remove(at);
            }
            goes_on |= out.len() > written;
        }
        if credit == 0 { Err(StreamError) } else { Ok(goes_on) }
    }

    /// Applies SETTINGS_INITIAL_WINDOW_SIZE, which changes the windows of open streams by the
    /// difference, even below zero.
    pub(crate) fn set_initial(
        &mut self,
        out: &mut Vec<u8>,
        size: u32,
    ) -> Result<(), ConnectionError> {
        let size = i64::from(size);
        if size > WINDOW_MAX {
            return Err(ConnectionError::flow_control("SETTINGS_INITIAL_WINDOW_SIZE above 2^31-1"));
        }
        let change = size - self.initial;
        self.initial = size;
        for pending in &mut self.pending {
            pending.window += change;
            if pending.window > WINDOW_MAX {
                return Err(ConnectionError::flow_control("stream window above 2^31-1"));
            }
        }
        self.flush(out);
        Ok(())
    }

    /// Encodes cut bodies until a burst is pending, the connection's window is used up, or every
    /// cut body waits for its stream's window.
    pub(crate) fn flush(&mut self, out: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            self.pending
                .retain_mut(|p| out.len() >= BURST_BYTES || !p.send(out, &mut self.connection));
            self.shrink();
        }
    }

    /// Reports whether windows are open for a cut body, so that [`Self::flush`] continues when the
    /// output has been fetched.
    pub(crate) fn has_more(&self) -> bool {
        self.connection > 0 && self.pending.iter().any(|p| p.may_send(self.connection))
    }

    fn remove(&mut self, at: usize) {
        self.pending.remove(at);
        self.shrink();
    }

    fn shrink(&mut self) {
        if self.pending.is_empty() && self.pending.capacity() > PENDING_KEPT {
            self.pending = VecDeque::new();
        }
    }

    fn find(&self, id: u32) -> Option<usize> {
        self.pending.binary_search_by_key(&id, |p| p.id).ok()
    }
}

/// Violation of a stream's rules by the peer, which ends only that stream.
#[derive(Debug)]
pub(crate) struct StreamError;

impl Pending {
    /// A cut body has bytes left, so [`Self::send`] would write some.
    fn may_send(&self, connection: i64) -> bool {
        self.window.min(connection) > 0
    }

    /// Sends as much as both windows allow. Returns `true` if the body is complete.
    fn send(&mut self, out: &mut Vec<u8>, connection: &mut i64) -> bool {
        loop {
            let left = self.body.len() - self.sent;
            let window = usize::try_from(self.window.min(*connection)).unwrap_or(0);
            let length = left.min(window).min(PAYLOAD_BYTES_MAX);
            let end = length == left;
            if length == 0 && !end {
                return false;
            }
            let chunk = &self.body[self.sent..self.sent + length];
            frames::put(out, kind::DATA, if end { flag::END_STREAM } else { 0 }, self.id, chunk);
            self.sent += length;
            #[allow(clippy::cast_possible_wrap)] // at most a frame
            let length = length as i64;
            self.window -= length;
            *connection -= length;
            if end {
                return true;
            }
        }
    }
}

/// Receive window of the whole connection. Bodies are read at once or discarded, so the window is
/// large, and credit is returned in large pieces.
#[derive(Debug)]
pub(crate) struct Credit {
    left: u32,
}

impl Credit {
    /// Size of the receive window, bytes: some ten thousand error bodies in flight; the memory for
    /// them is bounded elsewhere.
    pub(crate) const WINDOW: u32 = 1 << 20;

    /// Creates the window and writes its first WINDOW_UPDATE, because it begins at the default.
    pub(crate) fn new(out: &mut Vec<u8>) -> Self {
        frames::put_window_update(out, 0, Self::WINDOW - 65_535);
        Self { left: Self::WINDOW }
    }

    /// Counts bytes from the peer, padding included.
    pub(crate) fn consume(&mut self, bytes: usize) -> Result<(), ConnectionError> {
        let left = u32::try_from(bytes).ok().and_then(|bytes| self.left.checked_sub(bytes));
        self.left = left
            .ok_or(ConnectionError::flow_control("more DATA than the connection window allows"))?;
        Ok(())
    }

    /// Reports whether half of the window is used, so that credit must be returned.
    pub(crate) fn is_due(&self) -> bool {
        self.left <= Self::WINDOW / 2
    }

    /// Returns credit, if it is due, with the pending output: a peer that does not read gets none.
    pub(crate) fn give(&mut self, out: &mut Vec<u8>) {
        if self.is_due() {
            frames::put_window_update(out, 0, Self::WINDOW - self.left);
            self.left = Self::WINDOW;
        }
    }
}
