//! How texts from elsewhere are shown in errors and logs: on one line, and not too long.

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
    fn one_line_keeps_all_but_control_characters() {
        assert_eq!(one_line("a \"b\" \\ \u{fc}"), "a \"b\" \\ \u{fc}");
        assert_eq!(one_line("a\r\nb\u{1b}[1m"), "a\\r\\nb\\u{1b}[1m");
    }
}
