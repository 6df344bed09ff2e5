//! A transport in memory on which things go wrong.
//!
//! Each direction is cut into pieces, and each piece has its own faults. They are drawn from a
//! seed, one piece after the other, so they lie at the same bytes however the threads run. The
//! transport has no thread: a piece that is late carries the time of its arrival, and the reader
//! waits for that.
#![allow(dead_code)] // Each test file uses its own part.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rtcbot_websocket::transport::{Halves, ReadHalf, ShutdownHandle, Transport, WriteHalf};

use super::direction::Direction;
use super::faults::{ConnectionFaults, EndOptions};
use super::frames::FrameReader;
use super::script::Script;

pub(super) struct State {
    /// From the first end to the second, and back.
    pub(super) directions: [Direction; 2],
    /// What the peer of the first end does, where no program does it.
    pub(super) script: Option<Script>,
    reset: bool,
    shut_down: [bool; 2],
    /// Ends of which a part is left.
    left: usize,
    /// For each end, the halves that are left.
    halves: [usize; 2],
}

impl State {
    fn reset(&mut self) {
        self.reset = true;
        self.directions.iter_mut().for_each(Direction::clear);
    }

    /// Applies the faults at the position up to which has just been written.
    fn apply_faults(&mut self, side: usize) {
        let direction = &mut self.directions[side];
        let here = direction.written;
        let reset = direction.faults.reset;
        if let Some((_, time)) = direction.faults.stall.take_if(|(at, _)| *at == here) {
            let until = time.map(|time| Instant::now() + time);
            direction.arrival = direction.arrival.and_then(|last| Some(last.max(until?)));
        }
        if let Some((_, swallows)) = direction.faults.end.filter(|(at, _)| *at == here) {
            direction.finished = true;
            direction.swallows = swallows;
        }
        if reset == Some(here) {
            self.reset();
        }
    }

    /// Ends one end of the connection.
    fn end(&mut self, side: usize, resets: bool) {
        let (out, back) = (side, 1 - side);
        self.directions[out].finished = true;
        self.directions[out].swallows = false;
        if resets && self.is_heard(side) && !self.directions[back].bytes.is_empty() {
            self.reset();
        }
        self.abandon(side);
    }

    /// Ends reading at one end.
    fn abandon(&mut self, side: usize) {
        self.directions[1 - side].abandoned |= self.is_heard(side);
    }

    /// Whether the peer still learns what this end does.
    fn is_heard(&self, side: usize) -> bool {
        self.directions[side].arrival.is_some()
    }
}

pub(super) struct Shared {
    /// Protects both directions. Only functions that compute are called under it.
    pub(super) state: Mutex<State>,
    /// For each direction: notified of every change. Its waits end with bytes or room, with either
    /// end, or at their own deadline.
    changed: [Condvar; 2],
    /// Notified when an end has gone, and when a reader finds nothing. Its waits have a deadline.
    observed: Condvar,
}

/// The deadline of a wait; `None` is for ever.
type Until = Option<Instant>;

impl Shared {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        for changed in &self.changed {
            changed.notify_all();
        }
        self.observed.notify_all();
    }

    fn wait(
        &self,
        state: &mut MutexGuard<'_, State>,
        direction: usize,
        until: Until,
        timeout: io::ErrorKind,
    ) -> io::Result<()> {
        match until {
            None => self.changed[direction].wait(state),
            Some(until) if Instant::now() >= until => return Err(timeout.into()),
            Some(until) => drop(self.changed[direction].wait_until(state, until)),
        }
        Ok(())
    }
}

/// What the parts of one end have in common.
struct End {
    shared: Arc<Shared>,
    side: usize,
    options: EndOptions,
}

impl End {
    fn change(&self, change: impl FnOnce(&mut State)) {
        self.shared.change(change);
    }

    /// Writes some bytes; with `wait`, waits for room.
    fn write(&self, bytes: &[u8], wait: Option<Until>) -> io::Result<usize> {
        let side = self.side;
        let mut state = self.shared.state.lock();
        loop {
            if state.shut_down[side] {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if state.directions[side].written == 0 {
                state.apply_faults(side);
            }
            if state.reset {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            let direction = &mut state.directions[side];
            if direction.was_shut_down && !bytes.is_empty() {
                direction.frames.fail("bytes after shutdown_write");
            }
            if direction.swallows || bytes.is_empty() {
                return Ok(bytes.len());
            }
            if direction.finished || direction.abandoned {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if direction.piece.left == 0 {
                direction.next_piece();
            }
            if std::mem::take(&mut direction.piece.signal_writing) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let full = direction.is_full();
            match wait {
                None if full || direction.piece.refused => {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Some(until) if full => {
                    let timeout = self.options.timeout;
                    self.shared.wait(&mut state, side, until, timeout)?;
                }
                _ => {
                    let taken = direction.take(bytes);
                    Script::answer(&mut state);
                    state.apply_faults(side);
                    let reset = state.reset;
                    drop(state);
                    self.shared.changed[side].notify_all();
                    if reset {
                        self.shared.changed[1 - side].notify_all();
                    }
                    return Ok(taken);
                }
            }
        }
    }

    fn read(&self, buffer: &mut [u8], until: Until) -> io::Result<usize> {
        let (side, back) = (self.side, 1 - self.side);
        let mut state = self.shared.state.lock();
        loop {
            let shut_down = state.shut_down[side];
            if state.reset && !shut_down {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            let direction = &mut state.directions[back];
            if shut_down && !(self.options.reads_on && direction.arrived().is_some()) {
                return Ok(0);
            }
            if let Some(chunk) = direction.arrived() {
                if std::mem::take(&mut chunk.signal) {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                let len = chunk.len.min(buffer.len());
                chunk.len -= len;
                if chunk.len == 0 {
                    direction.chunks.pop_front();
                }
                for (to, byte) in buffer.iter_mut().zip(direction.bytes.drain(..len)) {
                    *to = byte;
                }
                drop(state);
                self.shared.changed[back].notify_all();
                return Ok(len);
            }
            if !std::mem::replace(&mut direction.has_run_dry, true) {
                self.shared.observed.notify_all();
            }
            let arrives = direction.chunks.front().map(|chunk| chunk.arrives);
            if arrives.is_none() && direction.finished && direction.arrival.is_some() {
                return match direction.resets_at_the_end {
                    true => Err(io::ErrorKind::ConnectionReset.into()),
                    false => Ok(0),
                };
            }
            match arrives.flatten() {
                // The wait ends at the earlier of the two; the next turn finds which it was.
                Some(arrival) if until.is_none_or(|until| arrival < until) => {
                    self.shared.changed[back].wait_until(&mut state, arrival);
                }
                _ => {
                    let timeout = self.options.timeout;
                    self.shared.wait(&mut state, back, until, timeout)?;
                }
            }
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.change(|state| {
            state.end(self.side, self.options.resets);
            state.left -= 1;
        });
    }
}

/// One end of the connection.
pub struct FaultyTransport {
    end: Arc<End>,
    buffer: usize,
}

/// Looks at the connection from outside.
#[derive(Clone)]
pub struct Observer(Arc<Shared>);

/// Two ends, the first of which is the client's.
pub fn pair(faults: &ConnectionFaults) -> (FaultyTransport, FaultyTransport, Observer) {
    connection(faults, true, None)
}

pub(super) fn connection(
    faults: &ConnectionFaults,
    first_is_client: bool,
    script: Option<Script>,
) -> (FaultyTransport, FaultyTransport, Observer) {
    let direction = |n: usize| {
        let from_client = (n == 0) == first_is_client;
        Direction::new(&faults.directions[n], faults.seed ^ n as u64, from_client)
    };
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            directions: [direction(0), direction(1)],
            script,
            reset: false,
            shut_down: [false; 2],
            left: 2,
            halves: [0; 2],
        }),
        changed: [Condvar::new(), Condvar::new()],
        observed: Condvar::new(),
    });
    Script::begin(&mut shared.state.lock());
    let end = |side: usize| FaultyTransport {
        end: Arc::new(End {
            shared: shared.clone(),
            side,
            options: faults.ends[side].clone(),
        }),
        buffer: faults.directions[side].buffer,
    };
    (end(0), end(1), Observer(shared.clone()))
}

impl Observer {
    /// Resets the connection.
    pub fn reset(&self) {
        self.0.change(State::reset);
    }

    /// Waits until no part of either end is left.
    pub fn wait_until_both_have_gone(&self, until: Instant) -> bool {
        self.wait_until(until, |state| state.left == 0)
    }

    /// Waits until the first end has read all that was written to it and asked for more, or has
    /// been shut down.
    pub fn wait_until_all_is_read(&self, until: Instant) -> bool {
        self.wait_until(until, |state| {
            state.directions[1].has_run_dry || state.shut_down[0]
        })
    }

    fn wait_until(&self, until: Instant, holds: impl Fn(&State) -> bool) -> bool {
        let mut state = self.0.state.lock();
        while !holds(&state) {
            if self.0.observed.wait_until(&mut state, until).timed_out() {
                return holds(&state);
            }
        }
        true
    }

    /// How many halves of this end exist.
    pub fn halves(&self, side: usize) -> usize {
        self.0.state.lock().halves[side]
    }

    /// What an end wrote that breaks the protocol, in either direction.
    pub fn wrong_on_the_wire(&self) -> Vec<String> {
        let state = self.0.state.lock();
        let directions = state.directions.iter();
        directions
            .filter_map(|direction| direction.frames.wrong.clone())
            .collect()
    }

    /// What the first end wrote.
    pub fn take_written(&self) -> FrameReader {
        let frames = &mut self.0.state.lock().directions[0].frames;
        std::mem::replace(frames, FrameReader::new(true))
    }
}

impl FaultyTransport {
    /// Reads as a blocking stream does, for what comes before the WebSocket.
    pub fn read_until(&mut self, buffer: &mut [u8], until: Instant) -> io::Result<usize> {
        self.end.read(buffer, Some(until))
    }
}

impl Transport for FaultyTransport {
    fn split(self: Box<Self>) -> io::Result<Halves> {
        self.end.change(|state| state.halves[self.end.side] = 2);
        Ok(Halves {
            read: Box::new(FaultyRead {
                end: self.end.clone(),
                timeout: None,
            }),
            write: Box::new(FaultyWrite {
                end: self.end.clone(),
                timeout: None,
                kept: Vec::new(),
                buffer: self.buffer,
            }),
            shutdown: Arc::new(FaultyShutdown(self.end)),
        })
    }
}

fn deadline(timeout: Option<Duration>) -> Until {
    Some(Instant::now() + timeout?)
}

struct FaultyRead {
    end: Arc<End>,
    timeout: Option<Duration>,
}

impl Read for FaultyRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.end.read(buffer, deadline(self.timeout))
    }
}

impl ReadHalf for FaultyRead {
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.timeout = timeout;
        Ok(())
    }
}

impl Drop for FaultyRead {
    fn drop(&mut self) {
        let End { side, options, .. } = &*self.end;
        self.end.change(|state| {
            state.halves[*side] -= 1;
            if options.by_halves {
                state.abandon(*side);
            }
        });
    }
}

struct FaultyWrite {
    end: Arc<End>,
    timeout: Option<Duration>,
    /// Accepted and not yet passed on.
    kept: Vec<u8>,
    /// How many bytes it keeps at most.
    buffer: usize,
}

impl FaultyWrite {
    fn put(&mut self, bytes: &[u8], wait: Option<Until>) -> io::Result<usize> {
        if self.buffer == 0 {
            return self.end.write(bytes, wait);
        }
        if self.kept.len() == self.buffer {
            let passed = self.end.write(&self.kept, wait)?;
            self.kept.drain(..passed);
        }
        let fits = bytes.len().min(self.buffer - self.kept.len());
        self.kept.extend_from_slice(&bytes[..fits]);
        Ok(fits)
    }

    fn pass_on(&mut self, mut wait: impl FnMut() -> Option<Until>) -> io::Result<()> {
        while !self.kept.is_empty() {
            match self.end.write(&self.kept, wait()) {
                Ok(passed) => drop(self.kept.drain(..passed)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Write for FaultyWrite {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes, Some(deadline(self.timeout)))
    }

    fn flush(&mut self) -> io::Result<()> {
        let timeout = self.timeout;
        self.pass_on(|| Some(deadline(timeout)))
    }
}

impl WriteHalf for FaultyWrite {
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.timeout = timeout;
        Ok(())
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes, None)
    }

    fn try_flush(&mut self) -> io::Result<()> {
        self.pass_on(|| None)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        let side = self.end.side;
        self.end.change(|state| {
            state.directions[side].finished = true;
            state.directions[side].was_shut_down = true;
        });
        Ok(())
    }
}

impl Drop for FaultyWrite {
    fn drop(&mut self) {
        let End { side, options, .. } = &*self.end;
        self.end.change(|state| {
            state.halves[*side] -= 1;
            state.directions[*side].finished |= options.by_halves;
        });
    }
}

struct FaultyShutdown(Arc<End>);

impl ShutdownHandle for FaultyShutdown {
    fn shutdown(&self) {
        let End { side, options, .. } = &*self.0;
        self.0.change(|state| {
            if !std::mem::replace(&mut state.shut_down[*side], true) {
                state.end(*side, options.resets);
            }
        });
    }
}
