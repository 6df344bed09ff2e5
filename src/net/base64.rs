//! Base64, as keys and logins are written in (RFC 4648, section 4).

use std::sync::LazyLock;

use data_encoding::{BASE64, Encoding};

/// The last character may have bits that mean nothing: section 3.5 lets a reader refuse them, and
/// RFC 6455, section 4.1, has an example with some.
static LENIENT: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = BASE64.specification();
    specification.check_trailing_bits = false;
    // It is a specification already without the change, which cannot contradict the rest of it.
    specification.encoding().unwrap_or(BASE64)
});

/// Reads Base64 as everybody does. Padding is needed, and ends it.
pub(crate) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    // The library also reads several texts in a row, which have padding between them.
    let padding = text.iter().position(|byte| *byte == b'=');
    if padding.is_some_and(|start| text.len() - start > 2) {
        return None;
    }
    LENIENT.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_may_end_in_bits_that_mean_nothing() {
        for (text, bytes) in [
            ("", ""),
            ("QQ==", "A"),
            ("QR==", "A"),
            ("QUJ=", "AB"),
            ("QUJD", "ABC"),
        ] {
            assert_eq!(
                decode(text.as_bytes()).as_deref(),
                Some(bytes.as_bytes()),
                "{text}"
            );
        }
        for text in [
            "QQ", "QQ=", "QQ===", "Q Q==", "QQ==QQ==", "QUE=QUJD", "Q", "_-==",
        ] {
            assert_eq!(decode(text.as_bytes()), None, "{text}");
        }
    }
}
