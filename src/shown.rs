//! How texts from elsewhere are shown in errors and logs: on one line, not too long, and without
//! the secrets of URLs.

/// The maximum length of a redirect's target.
pub(crate) const MAX_LOCATION: usize = 200;

/// Returns the beginning of a text in quotes, with `max` characters at most, and dots if there is
/// more. Quotes and what is not printable are escaped.
pub(crate) fn quoted(text: &str, max: usize) -> String {
    let mut room = max;
    let start = text.chars().take_while(|c| {
        let left = room.checked_sub(c.escape_debug().count());
        room = left.unwrap_or(0);
        left.is_some()
    });
    let start: String = start.collect();
    let dots = if start.len() < text.len() { "..." } else { "" };
    format!("{start:?}{dots}")
}

/// Returns a text of `max` characters at most. If it is longer, its end is replaced by dots.
pub(crate) fn shortened(text: &str, max: usize) -> String {
    match text.chars().count() > max {
        true => text.chars().take(max - 3).chain("...".chars()).collect(),
        false => text.to_owned(),
    }
}

/// Returns a text with its control characters escaped, and so without line breaks.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::new();
    for c in text.chars() {
        match c.is_control() {
            true => line.extend(c.escape_debug()),
            false => line.push(c),
        }
    }
    line
}

/// Returns the part of an invalid URL that can be shown: without what may be a user, a password or
/// a query.
pub(crate) fn shown_url(text: &str) -> String {
    let (start, rest) = text.split_at(text.find(['?', '#']).unwrap_or(text.len()));
    match start.rsplit_once('@') {
        Some((_, host)) => without_query(&format!("{host}{rest}")),
        // This may be the beginning of a password with characters that a URL must escape.
        None if rest.contains('@') => match start.split_once("://") {
            Some((scheme, _)) => format!("{scheme}://..."),
            None => "...".to_owned(),
        },
        None => without_query(text),
    }
}

/// Replaces the content of a query by dots, and removes a fragment.
pub(crate) fn without_query(text: &str) -> String {
    let text = text.split('#').next().unwrap_or_default();
    match text.split_once('?') {
        Some((rest, query)) if !query.is_empty() => format!("{rest}?..."),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_text_is_short_and_has_one_line() {
        assert_eq!(quoted("it's \"so\"\r\n", 100), r#""it's \"so\"\r\n""#);
        assert_eq!(quoted("abcd", 4), "\"abcd\"");
        assert_eq!(quoted("abcde", 4), "\"abcd\"...");
        // An escape is not cut.
        assert_eq!(quoted("ab\u{1b}d", 4), "\"ab\"...");
        assert_eq!(quoted(&"\u{202e}".repeat(1000), 100).len(), 8 * 12 + 5);
    }

    #[test]
    fn a_shortened_text_ends_with_dots() {
        assert_eq!(shortened("\u{fc}bcdef", 6), "\u{fc}bcdef");
        assert_eq!(shortened("\u{fc}bcdefg", 6), "\u{fc}bc...");
    }

    #[test]
    fn one_line_keeps_all_but_control_characters() {
        assert_eq!(one_line("a \"b\" \\ \u{fc}"), "a \"b\" \\ \u{fc}");
        assert_eq!(one_line("a\r\nb\u{1b}[1m"), "a\\r\\nb\\u{1b}[1m");
    }
}
