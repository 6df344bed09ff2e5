//! How a message is compressed when it is sent.
//!
//! This is not part of the message's value: it changes neither how messages compare nor what
//! arrives.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

#[cfg(not(feature = "deflate"))]
pub(crate) use never::Compression;
#[cfg(feature = "deflate")]
pub(crate) use with_deflate::Compression;

impl PartialEq for Compression {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Compression {}

impl PartialOrd for Compression {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Compression {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}

impl Hash for Compression {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

#[cfg(feature = "deflate")]
mod with_deflate {
    use std::io;
    use std::sync::Arc;

    use bytes::Bytes;
    use parking_lot::Mutex;

    /// The level, the window, and whether text is sent as JSON.
    type Key = ((u8, u8), bool);

    /// How a message is compressed when it is sent.
    #[derive(Clone, Default)]
    pub(crate) enum Compression {
        /// As the settings of the connection say.
        #[default]
        AsSet,
        /// Not at all.
        Off,
        /// As the settings say, and once for all connections for which the result is the same.
        Shared(Arc<SharedDeflate>),
    }

    impl Compression {
        pub(crate) fn is_off(&self) -> bool {
            matches!(self, Compression::Off)
        }

        pub(crate) fn shared(&self) -> Option<&SharedDeflate> {
            match self {
                Compression::Shared(shared) => Some(shared),
                Compression::AsSet | Compression::Off => None,
            }
        }
    }

    /// The compressed forms of one message that many connections send.
    #[derive(Default)]
    pub(crate) struct SharedDeflate {
        /// The lock is held while the message is compressed: the other connections need the result,
        /// and would otherwise compress the message as well.
        forms: Mutex<Vec<(Key, Bytes)>>,
    }

    impl SharedDeflate {
        /// Returns the form for these settings. The first call makes it.
        pub(crate) fn get_or_compress(
            &self,
            key: Key,
            compress: impl FnOnce() -> io::Result<Bytes>,
        ) -> io::Result<Bytes> {
            let mut forms = self.forms.lock();
            if let Some((_, form)) = forms.iter().find(|(known, _)| *known == key) {
                return Ok(form.clone());
            }
            let form = compress()?;
            forms.push((key, form.clone()));
            Ok(form)
        }
    }
}

/// Without the feature, no message is compressed, and this takes no memory.
#[cfg(not(feature = "deflate"))]
mod never {
    use std::io;

    use bytes::Bytes;

    #[derive(Clone, Default)]
    pub(crate) struct Compression(());

    impl Compression {
        pub(crate) fn is_off(&self) -> bool {
            true
        }

        pub(crate) fn shared(&self) -> Option<&SharedDeflate> {
            None
        }
    }

    pub(crate) enum SharedDeflate {}

    impl SharedDeflate {
        pub(crate) fn get_or_compress(
            &self,
            _: ((u8, u8), bool),
            _: impl FnOnce() -> io::Result<Bytes>,
        ) -> io::Result<Bytes> {
            match *self {}
        }
    }
}

#[cfg(test)]
#[cfg(feature = "deflate")]
mod tests {
    use super::with_deflate::SharedDeflate;
    use super::*;

    #[test]
    fn each_form_is_made_once() {
        let shared = SharedDeflate::default();
        let mut made = Vec::new();
        let keys = [
            ((1, 15), true),
            ((1, 15), false),
            ((1, 9), true),
            ((6, 15), true),
        ];
        for _ in 0..3 {
            for (index, key) in keys.into_iter().enumerate() {
                let form = shared.get_or_compress(key, || {
                    made.push(index);
                    Ok(vec![index as u8].into())
                });
                assert_eq!(form.unwrap(), [index as u8][..]);
            }
        }
        assert_eq!(made, [0, 1, 2, 3]);
        let failed =
            shared.get_or_compress(((2, 15), true), || Err(std::io::ErrorKind::Other.into()));
        assert!(failed.is_err());
        let again = shared.get_or_compress(((2, 15), true), || Ok("x".into()));
        assert_eq!(again.unwrap(), "x");
    }

    #[test]
    fn how_a_message_is_compressed_is_not_part_of_its_value() {
        assert!(Compression::Off == Compression::AsSet);
        assert_eq!(Compression::Off.cmp(&Compression::AsSet), Ordering::Equal);
    }
}
