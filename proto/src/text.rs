//! Checks of texts that a phone shows or an operator reads: control characters, invisible
//! characters, and controls of the writing direction.
//!
//! A gateway takes texts as they are, so a text that is blank on the phone, or turns the rest of the
//! notification around, reaches everybody. The tables are those of Unicode 17: general category Cc,
//! the property `Default_Ignorable_Code_Point` (DerivedCoreProperties.txt), and the explicit
//! formatting characters of the bidirectional algorithm (UAX #9, section 2).

use crate::error::InvalidField;

/// Whether a text may have more than one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lines {
    /// One line: no line breaks and no tabs.
    One,
    /// Several lines: LF, CR LF, U+2028 and U+2029 break lines, and tabs are allowed.
    Many,
}

/// Checks a text that a phone shows: a visible character, no control characters, and a closed
/// writing direction.
///
/// # Errors
/// The first rule that the text breaks, with the character and its place.
pub(crate) fn shown(text: &str, field: &str, lines: Lines) -> Result<(), InvalidField> {
    let wrong = |problem: String| Err(InvalidField::new(field, problem));
    if let Some((at, control)) = first_control(text, lines) {
        let allowed = match lines {
            Lines::One => "",
            Lines::Many => " other than line breaks (LF, CR LF) and tabs",
        };
        return wrong(format!(
            "must not contain control characters{allowed}; got {} at byte {at}",
            code(control)
        ));
    }
    if !text.chars().any(is_visible) {
        return wrong(format!(
            "must contain a visible character; got {} blank or invisible characters",
            text.chars().count()
        ));
    }
    match direction(text) {
        Ok(()) => Ok(()),
        Err(Direction::Open(at, opener)) => wrong(format!(
            "must close every control of the writing direction in its line; {} at byte {at} is \
             not closed",
            code(opener)
        )),
        Err(Direction::ClosesNothing(at, closer)) => wrong(format!(
            "must close controls of the writing direction in the reverse order of opening; {} at \
             byte {at} closes nothing",
            code(closer)
        )),
    }
}

/// Checks an address: no whitespace, control characters or invisible characters.
///
/// # Errors
/// The first such character, with its place.
pub(crate) fn address(text: &str, field: &str) -> Result<(), InvalidField> {
    match text.char_indices().find(|(_, c)| c.is_control() || !is_visible(*c)) {
        None => Ok(()),
        Some((at, c)) => Err(InvalidField::new(
            field,
            format_args!(
                "must not contain spaces, control characters or invisible characters; got {} at \
                 byte {at}",
                code(c)
            ),
        )),
    }
}

/// Checks an identifier: visible characters, with single spaces between them.
///
/// # Errors
/// The first other character, with its place.
pub(crate) fn identifier(text: &str, field: &str) -> Result<(), InvalidField> {
    let mut space = true;
    for (at, c) in text.char_indices() {
        let single = c == ' ' && !space && at + 1 < text.len();
        if c.is_control() || !(is_visible(c) || single) {
            return Err(InvalidField::new(
                field,
                format_args!(
                    "must contain only visible characters, with single spaces between them; got \
                     {} at byte {at}",
                    code(c)
                ),
            ));
        }
        space = c == ' ';
    }
    Ok(())
}

/// Checks a text for control characters only.
///
/// # Errors
/// The first control character, with its place.
pub(crate) fn no_controls(text: &str, field: &str) -> Result<(), InvalidField> {
    match text.char_indices().find(|(_, c)| c.is_control()) {
        None => Ok(()),
        Some((at, c)) => Err(InvalidField::new(
            field,
            format_args!("must not contain control characters; got {} at byte {at}", code(c)),
        )),
    }
}

/// First control character that the lines do not allow.
fn first_control(text: &str, lines: Lines) -> Option<(usize, char)> {
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let allowed = match c {
            '\n' | '\t' | '\u{2028}' | '\u{2029}' => lines == Lines::Many,
            '\r' => lines == Lines::Many && chars.peek().is_some_and(|(_, next)| *next == '\n'),
            c => !c.is_control(),
        };
        if !allowed {
            return Some((at, c));
        }
    }
    None
}

/// Whether a character leaves ink: neither whitespace nor ignorable by default.
fn is_visible(c: char) -> bool {
    !c.is_whitespace() && !is_ignorable(c)
}

/// Whether a reader sees nothing of a character: `Default_Ignorable_Code_Point`, the annotation
/// controls (U+FFF9 to U+FFFB), and the empty Braille pattern, which phones draw as a blank.
fn is_ignorable(c: char) -> bool {
    matches!(
        c,
        '\u{AD}'
            | '\u{34F}'
            | '\u{61C}'
            | '\u{115F}'..='\u{1160}'
            | '\u{17B4}'..='\u{17B5}'
            | '\u{180B}'..='\u{180F}'
            | '\u{200B}'..='\u{200F}'
            | '\u{202A}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{FE00}'..='\u{FE0F}'
            | '\u{FEFF}'
            | '\u{FFA0}'
            | '\u{FFF0}'..='\u{FFFB}'
            | '\u{1BCA0}'..='\u{1BCA3}'
            | '\u{1D173}'..='\u{1D17A}'
            | '\u{E0000}'..='\u{E0FFF}'
    )
}

/// Fault in the controls of the writing direction: the place and the control.
#[derive(Debug, PartialEq, Eq)]
enum Direction {
    /// The line ends before the control is closed.
    Open(usize, char),
    /// The control closes nothing, or something that was opened outside of an open one.
    ClosesNothing(usize, char),
}

/// Checks that each line closes what it opens: the bidirectional algorithm ends every embedding,
/// override and isolate at the end of a line, but a phone may join lines, and puts the text into
/// its own.
fn direction(text: &str) -> Result<(), Direction> {
    let mut open: Vec<(usize, char)> = Vec::new();
    for (at, c) in text.char_indices() {
        let closes: &[char] = match c {
            '\u{202A}' | '\u{202B}' | '\u{202D}' | '\u{202E}' | '\u{2066}'..='\u{2068}' => {
                open.push((at, c));
                continue;
            }
            '\u{202C}' => &['\u{202A}', '\u{202B}', '\u{202D}', '\u{202E}'],
            '\u{2069}' => &['\u{2066}', '\u{2067}', '\u{2068}'],
            // U+2028 is white space to the algorithm: it ends no embedding.
            '\n' | '\u{2029}' => match open.pop() {
                Some((at, opener)) => return Err(Direction::Open(at, opener)),
                None => continue,
            },
            _ => continue,
        };
        match open.pop() {
            Some((_, opener)) if closes.contains(&opener) => {}
            _ => return Err(Direction::ClosesNothing(at, c)),
        }
    }
    open.pop().map_or(Ok(()), |(at, opener)| Err(Direction::Open(at, opener)))
}

/// Form in which errors show a character that may be invisible.
fn code(c: char) -> String {
    format!("U+{:04X}", u32::from(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str, lines: Lines) -> String {
        shown(text, "body", lines).expect_err("must be refused").problem
    }

    #[test]
    fn what_people_write_is_allowed() {
        for text in [
            "Vermisst: Lina, 7 Jahre",
            "失踪儿童",
            "طفل مفقود",
            "نرم\u{200C}افزار",
            "👨\u{200D}👩\u{200D}👧 ❤\u{FE0F} 🏴\u{E0067}\u{E0062}\u{E0065}\u{E006E}\u{E0067}\u{E007F}",
            "शक्\u{200D}ति",
            "רחוב \u{2066}Main St. 5\u{2069}, תל אביב",
            "\u{200F}שלום",
            "\u{202B}אבג \u{2066}x\u{2069}\u{202C}",
            "soft\u{AD}hyphen",
        ] {
            assert_eq!(shown(text, "t", Lines::One), Ok(()), "{text}");
            assert_eq!(shown(text, "t", Lines::Many), Ok(()), "{text}");
        }
        assert_eq!(shown("one\ntwo\r\n\tthree\u{2028}four", "t", Lines::Many), Ok(()));
    }

    #[test]
    fn controls_are_refused_with_their_place() {
        assert_eq!(
            problem("ab\0c", Lines::Many),
            "must not contain control characters other than line breaks (LF, CR LF) and tabs; got \
             U+0000 at byte 2"
        );
        for (text, lines, what) in [
            ("a\u{7}", Lines::One, "U+0007 at byte 1"),
            ("é\u{85}", Lines::Many, "U+0085 at byte 2"),
            ("a\u{7F}", Lines::Many, "U+007F"),
            ("a\u{1B}[31m", Lines::Many, "U+001B"),
            ("a\rb", Lines::Many, "U+000D at byte 1"),
            ("a\r", Lines::Many, "U+000D"),
            ("a\nb", Lines::One, "U+000A"),
            ("a\tb", Lines::One, "U+0009"),
            ("a\u{2029}b", Lines::One, "U+2029"),
        ] {
            assert!(problem(text, lines).contains(what), "{text:?}: {}", problem(text, lines));
        }
    }

    #[test]
    fn blank_texts_are_refused() {
        for text in [
            " ",
            "\u{A0}\u{3000}",
            "\u{200B}",
            "\u{FEFF}",
            "\u{2060} \u{180E}",
            "\u{FE0F}",
            "\u{3164}",
            "\u{115F}\u{1160}",
            "\u{2800}",
            "\u{AD}",
            "\u{2066}\u{2069}",
            "\u{E0020}",
        ] {
            assert!(problem(text, Lines::Many).contains("visible character"), "{text:?}");
        }
        assert!(problem("\n\t\r\n", Lines::Many).ends_with("got 4 blank or invisible characters"));
    }

    #[test]
    fn the_writing_direction_is_closed_in_its_line() {
        for (text, what) in [
            ("abc\u{202E}txt.exe", "U+202E at byte 3 is not closed"),
            ("a\u{2067}b\nc\u{2069}", "U+2067 at byte 1 is not closed"),
            ("a\u{2069}", "U+2069 at byte 1 closes nothing"),
            ("a\u{202C}", "U+202C at byte 1 closes nothing"),
            ("\u{2066}\u{202B}a\u{2069}", "U+2069 at byte 7 closes nothing"),
            ("\u{202B}\u{2066}a\u{202C}", "U+202C at byte 7 closes nothing"),
        ] {
            assert!(problem(text, Lines::Many).contains(what), "{}", problem(text, Lines::Many));
        }
    }

    #[test]
    fn identifiers_and_addresses_have_no_hidden_characters() {
        for good in ["AZ-26/117", "case 17 B", "urn:oid:2.49.0.1.840.0.1", "案件１"] {
            assert_eq!(identifier(good, "external_id"), Ok(()));
        }
        for bad in [" a", "a ", "a  b", "a\u{200B}", "a\nb", "a\u{A0}b"] {
            assert!(identifier(bad, "external_id").is_err(), "{bad:?}");
        }
        assert_eq!(address("app://case?id=1%20&x=é", "deep_link"), Ok(()));
        for bad in ["app://a b", "app://a\u{0}", "app://a\u{202E}b", "app://\u{200B}", "a\u{3000}"]
        {
            assert!(address(bad, "deep_link").is_err(), "{bad:?}");
        }
    }
}
