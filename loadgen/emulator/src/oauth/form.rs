//! Parser for `application/x-www-form-urlencoded` bodies.

/// Returns the decoded values of all form fields with this name, except values that are not UTF-8.
pub(super) fn values<'a>(form: &'a [u8], name: &'a str) -> impl Iterator<Item = String> + 'a {
    form.split(|&b| b == b'&').filter_map(move |pair| {
        let at = pair.iter().position(|&b| b == b'=')?;
        (decoded(&pair[..at])? == name).then(|| decoded(&pair[at + 1..]))?
    })
}

fn decoded(text: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(&b) = rest.next() {
        bytes.push(match b {
            b'+' => b' ',
            b'%' => {
                let digit = |b: Option<&u8>| b.and_then(|&b| char::from(b).to_digit(16));
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_and_decoded() {
        let form = b"grant_type=urn%3Aietf%3aparams&a=x+y%2B&bad=%zz&cut=%4&assertion=";
        let first = |name| values(form, name).next();
        assert_eq!(first("grant_type").as_deref(), Some("urn:ietf:params"));
        assert_eq!(first("a").as_deref(), Some("x y+"));
        assert_eq!(first("assertion").as_deref(), Some(""));
        assert_eq!((first("bad"), first("cut"), first("none")), (None, None, None));
    }
}
