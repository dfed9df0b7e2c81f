//! Text in a page, escaped for HTML.

use std::fmt;

/// Text for HTML, between tags or in a quoted attribute.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.split_inclusive(['&', '<', '>', '"', '\'']) {
            let (text, last) =
                part.split_at(part.len() - part.chars().next_back().map_or(0, char::len_utf8));
            f.write_str(text)?;
            f.write_str(match last {
                "&" => "&amp;",
                "<" => "&lt;",
                ">" => "&gt;",
                "\"" => "&quot;",
                "'" => "&#39;",
                other => other,
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_leave_its_place() {
        let hostile = "<script>alert('x')</script> & \"é\" 失";
        assert_eq!(
            Escaped(hostile).to_string(),
            "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;é&quot; 失"
        );
        assert_eq!(Escaped("").to_string(), "");
    }
}
