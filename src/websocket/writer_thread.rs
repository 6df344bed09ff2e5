//! The writer thread: sends what is queued, and ends after the Close frame.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::frame_writer::{FrameWriter, Unsent};
use super::send_queue::Progress;
use super::session::Input;
use super::shared::Shared;
use crate::error::Error;
use crate::thread::spawn_with;

/// Starts the thread, which owns the frame writer. At its end, the thread returns the messages that
/// it has not sent.
pub(crate) fn start(
    shared: &Arc<Shared>,
    writer: Box<FrameWriter>,
) -> io::Result<JoinHandle<Unsent>> {
    let shared = shared.clone();
    spawn_with("ws-write", shared.options.thread_stack_size, move || {
        *shared.writer_thread.lock() = Some(thread::current().id());
        let _guard = PanicGuard(&shared);
        let writer = write_loop(&shared, writer);
        let unsent = writer.end();
        // The reader may be waiting for a peer that sends nothing more. This wait enforces the
        // session's deadline.
        shared.wait_shut_down();
        unsent
    })
}

/// Ends the connection if the thread panics in a user's transport. The reader would not notice.
struct PanicGuard<'a>(&'a Shared);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let text = "the writer thread panicked".to_owned();
            self.0.step(Input::Failed(Error::Internal(text)));
        }
    }
}

/// The thread's main loop.
fn write_loop(shared: &Shared, mut writer: Box<FrameWriter>) -> Box<FrameWriter> {
    loop {
        match shared.send_queue.write(&mut writer) {
            Ok(Progress::Drained) => writer = shared.send_queue.sleep(writer),
            Ok(Progress::Stalled) => {
                shared.peer_stalled();
                return writer;
            }
            Ok(Progress::Closed) => {
                shared.step(Input::CloseWritten);
                return writer;
            }
            Ok(Progress::Stopped) => return writer,
            Err(error) => {
                shared.write_failed(error);
                return writer;
            }
        }
    }
}
