//! Base64 for keys and logins (RFC 4648, section 4).

use std::sync::LazyLock;

use data_encoding::{BASE64, Encoding};

/// Base64 that ignores the unused bits of the last character. Section 3.5 lets a reader reject
/// them, but an example in RFC 6455, section 4.1, has some.
static LENIENT: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = BASE64.specification();
    specification.check_trailing_bits = false;
    // The specification is valid before the change, and the change cannot contradict it.
    specification.encoding().unwrap_or(BASE64)
});

/// Decodes Base64. Padding is required, and nothing may follow it.
pub(crate) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    // The library also decodes concatenated texts, which have padding between them.
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
    fn base64_may_end_in_unused_bits() {
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
