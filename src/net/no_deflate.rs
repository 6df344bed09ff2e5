//! What takes the place of the module `deflate` if the crate is built without the feature. No value
//! of these types exists, so nothing is done at run time.

use std::io;

use tungstenite::protocol::Role;

#[derive(Debug, Clone)]
pub(crate) enum Deflate {}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Agreed {}

#[derive(Debug)]
pub(crate) enum InflateReader {}

#[derive(Debug)]
pub(crate) enum Deflater {}

#[derive(Debug, thiserror::Error)]
#[error("")]
pub(crate) enum InvalidData {}

pub(crate) struct Refused(pub(crate) String);

impl Deflate {
    pub(crate) fn offer(&self) -> String {
        match *self {}
    }

    pub(crate) fn choose<'a>(
        &self,
        _: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Option<(Agreed, String)>, Refused> {
        match *self {}
    }

    pub(crate) fn check_answer<'a>(
        &self,
        _: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Option<Agreed>, Refused> {
        match *self {}
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        match *self {}
    }
}

impl Agreed {
    pub(crate) fn reader(&self, _: Role) -> InflateReader {
        match *self {}
    }

    pub(crate) fn deflater(&self, _: Role) -> Option<Deflater> {
        match *self {}
    }
}

impl InflateReader {
    pub(crate) fn read(
        &mut self,
        _: &mut [u8],
        _: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        match *self {}
    }
}

impl Deflater {
    pub(crate) fn is_worthwhile(&self, _: usize) -> bool {
        match *self {}
    }

    pub(crate) fn shared_settings(&self) -> Option<(u8, u8)> {
        match *self {}
    }

    pub(crate) fn compress(&mut self, _: &[u8], _: bool, _: &mut Vec<u8>) -> io::Result<()> {
        match *self {}
    }
}
