//! The writer thread: sends what is queued, until there is a Close frame to send.

use std::io;
use std::sync::Arc;
use std::thread;

use super::outbox::{Pen, Progress, Wait};
use super::shared::Shared;
use crate::net::closing::Event;

/// Starts the thread, which owns the pen.
pub(crate) fn start(shared: &Arc<Shared>, pen: Box<Pen>) -> io::Result<()> {
    let shared = shared.clone();
    thread::Builder::new()
        .name("ws-write".into())
        .spawn(move || {
            let _ = shared.writer_thread.set(thread::current().id());
            let mut done = Done {
                shared: &shared,
                unsent: 0,
            };
            let pen = write_until_the_end(&shared, pen);
            done.unsent = pen.unsent(&shared.outbox);
            drop(pen);
            see_to_the_end(&shared);
        })
        .map(drop)
}

/// Says that the writer is done, even if it panics.
struct Done<'a> {
    shared: &'a Shared,
    unsent: usize,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.shared.lifecycle.writer_done(self.unsent);
    }
}

/// The thread's main loop.
fn write_until_the_end(shared: &Shared, mut pen: Box<Pen>) -> Box<Pen> {
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
