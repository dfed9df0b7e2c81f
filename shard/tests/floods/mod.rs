//! What a hostile peer says on a connection that worked so far, and how that connection must end.
//! Used against the state machine alone, where what it holds can be counted, in a core beside a
//! lane that is well, and through sockets, TLS and the driver.
#![allow(dead_code)] // each test uses a part

/// One attack.
pub(crate) struct Flood {
    pub(crate) name: &'static str,
    /// Said once.
    pub(crate) first: Vec<u8>,
    /// Then said again and again until the connection ends.
    pub(crate) again: Vec<u8>,
    /// The connection's error contains one of these.
    pub(crate) ends: &'static [&'static str],
}

const CALM: &str = "too many frames that no request asked for";
const UNREAD: &str = "PING and SETTINGS faster than their answers are read";
const BLOCK: &str = "header block of too many bytes or frames";

/// All of them; `open` is a stream that waits for its answer, `ended` one that had it.
pub(crate) fn floods(open: u32, ended: u32) -> Vec<Flood> {
    let flood = |name, first: Vec<u8>, again: Vec<u8>, ends| Flood { name, first, again, ends };
    let once = |name, first: Vec<u8>, ends| Flood { name, first, again: Vec::new(), ends };
    let http1 = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec();
    vec![
        flood(
            "endless CONTINUATION",
            frame(1, 0, open, b"\x88"),
            frame(9, 0, open, &[0; 100]),
            &[BLOCK],
        ),
        flood(
            "endless empty CONTINUATION",
            frame(1, 0, open, b"\x88"),
            frame(9, 0, open, b""),
            &[BLOCK],
        ),
        flood("SETTINGS flood", vec![], frame(4, 0, 0, &[0, 4, 0, 0, 255, 255]), &[CALM, UNREAD]),
        flood("table sizes flood", vec![], [table(0), table(4_096)].concat(), &[CALM, UNREAD]),
        flood(
            "window sizes flood",
            vec![],
            [window(0), window(i32::MAX as u32)].concat(),
            &[CALM, UNREAD],
        ),
        flood("SETTINGS acknowledgements", vec![], frame(4, 1, 0, b""), &[CALM]),
        flood("PING flood", vec![], frame(6, 0, 0, b"8 bytes."), &[CALM, UNREAD]),
        flood("PONG flood", vec![], frame(6, 1, 0, b"8 bytes."), &[CALM]),
        flood("PRIORITY flood", vec![], frame(2, 0, ended, &[0, 0, 0, 0, 1]), &[CALM]),
        flood("extensions", vec![], frame(0x20, 0xff, open, b"GREASE"), &[CALM]),
        flood("drops of window", vec![], frame(8, 0, 0, &[0, 0, 0, 1]), &[CALM]),
        flood("RST storm", vec![], frame(3, 0, ended, &[0, 0, 0, 8]), &[CALM]),
        flood("GOAWAY storm", vec![], frame(7, 0, 0, &[0x7f, 255, 255, 255, 0, 0, 0, 0]), &[CALM]),
        flood("answers again and again", vec![], frame(1, 5, ended, b"\x88"), &[CALM]),
        flood("early hints", vec![], frame(1, 4, open, b"\x08\x03103"), &[CALM]),
        flood("empty DATA", frame(1, 4, open, b"\x88"), frame(0, 0, open, b""), &[CALM]),
        flood(
            "endless DATA",
            frame(1, 4, open, b"\x88"),
            frame(0, 0, open, &[b'x'; 16_384]),
            &[CALM, "more DATA than the connection window allows"],
        ),
        flood(
            "endless padding",
            frame(1, 4, open, b"\x88"),
            frame(0, 8, open, &[255; 256]),
            &[CALM, "more DATA than the connection window allows"],
        ),
        flood(
            "table size updates",
            vec![],
            frame(1, 5, ended, &[[0x20; 500].as_slice(), b"\x88"].concat()),
            &[CALM],
        ),
        once(
            "table size above the announced",
            frame(1, 5, open, b"\x3f\xe1\x7f\x88"),
            &["cannot be decoded"],
        ),
        once(
            "window overflow",
            frame(8, 0, 0, &[0x7f, 255, 255, 255]),
            &["connection window above 2^31-1"],
        ),
        once(
            "initial window overflow",
            window(1 << 31),
            &["SETTINGS_INITIAL_WINDOW_SIZE above 2^31-1"],
        ),
        once(
            "header bomb",
            frame(1, 5, open, &[0x82; 8_000]),
            &["header list larger than announced"],
        ),
        once("larger header bomb", frame(1, 5, open, &[0x82; 16_000]), &[BLOCK]),
        once(
            "an answer nobody asked for",
            frame(1, 5, 0x7fff_fff1, b"\x88"),
            &["a stream that was never opened"],
        ),
        once(
            "a stream of the server",
            frame(1, 5, 2, b"\x88"),
            &["a stream that was never opened"],
        ),
        once(
            "giant frame",
            vec![255, 255, 255, 0, 0, 0, 0, 0, 1],
            &["frame longer than announced"],
        ),
        once("HTTP/1.1", http1, &["frame longer than announced"]),
        once("push promise", frame(5, 4, open, b"\x00\x00\x00\x02\x82"), &["PUSH_PROMISE"]),
        once(
            "broken Huffman",
            frame(1, 5, open, b"\x08\x84\xff\xff\xff\xff"),
            &["cannot be decoded"],
        ),
        once(
            "interrupted block",
            [frame(1, 0, open, b"\x88"), frame(0, 0, open, b"x")].concat(),
            &["interrupted"],
        ),
    ]
}

fn table(bytes: u32) -> Vec<u8> {
    frame(4, 0, 0, &[&[0, 1][..], &bytes.to_be_bytes()].concat())
}

fn window(bytes: u32) -> Vec<u8> {
    frame(4, 0, 0, &[&[0, 4][..], &bytes.to_be_bytes()].concat())
}

/// Any frame, right or wrong.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a small payload").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}
