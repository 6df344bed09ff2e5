//! The writer thread: sends what is queued, until there is a Close frame to send.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::pen::{Leftover, Pen, Progress, Wait};
use super::shared::Shared;
use crate::error::Error;
use crate::net::closing::Event;
use crate::thread::spawn_to_join;

/// Starts the thread, which picks up the pen, and leaves at its end what it has not sent.
pub(crate) fn start(shared: &Arc<Shared>) -> io::Result<JoinHandle<Leftover>> {
    let shared = shared.clone();
    spawn_to_join("ws-write", move || {
        *shared.writer_thread.lock() = Some(thread::current().id());
        let _alarm = Alarm(&shared);
        let pen = write_until_the_end(&shared);
        let leftover = pen.end(&shared.outbox);
        see_to_the_end(&shared);
        leftover
    })
}

/// Ends the connection should the thread panic, in a transport of the user's: the reader would not notice.
struct Alarm<'a>(&'a Shared);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let text = "the writer thread panicked".to_owned();
            self.0.lifecycle.fail(Error::Internal(text));
            self.0.time_out();
        }
    }
}

/// The thread's main loop.
fn write_until_the_end(shared: &Shared) -> Box<Pen> {
    let mut pen = shared.outbox.pick_up();
    loop {
        match pen.write(&shared.outbox, Wait::Yes) {
            Ok(Progress::Drained) => pen = shared.outbox.sleep(pen),
            Ok(Progress::Blocked) => {
                shared.give_up_the_peer();
                return pen;
            }
            Ok(Progress::Closed) => {
                shared.on(Event::Written);
                return pen;
            }
            Ok(Progress::Stopped) => return pen,
            Err(error) => {
                shared.write_failed(error);
                return pen;
            }
        }
    }
}

/// The reader may be waiting for a peer that says nothing more: when closing takes too long, the
/// connection is cut.
fn see_to_the_end(shared: &Shared) {
    if !shared.lifecycle.wait_reader_done() {
        shared.time_out();
    }
}
