//! A connection in memory on which things go wrong, where a seed says so.
//!
//! Each direction is cut into pieces, and each piece has its mishaps. They are drawn from the seed, one
//! piece after the other, so they lie at the same bytes however the threads run. No thread works in
//! here: a piece that is late carries the time of its arrival, and who reads waits for that.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rtcbot_websocket::transport::{Halves, ReadHalf, ShutdownHandle, Transport, WriteHalf};

#[path = "observed.rs"]
mod observed;

use crate::dice::Dice;
use observed::Wire;

/// What goes wrong in one direction. Positions are bytes from the beginning of the stream.
#[derive(Debug, Clone)]
pub struct Faults {
    /// The longest piece: what is written and read at a time.
    pub grain: u64,
    /// How much the direction holds that has not been read.
    pub capacity: usize,
    /// How many pieces in a hundred are late, and by how many milliseconds at the most.
    pub late: (u64, u64),
    /// From here on nothing arrives for this long, or (`None`) any more.
    pub stall: Option<(u64, Option<Duration>)>,
    /// Here the connection is reset, both ways.
    pub reset: Option<u64>,
    /// Here the stream ends. Whether what is written beyond is taken, and gone.
    pub end: Option<(u64, bool)>,
    /// How many pieces in a hundred go only to who waits.
    pub unwilling: u64,
    /// How many pieces in a hundred are preceded by a signal, on either side.
    pub signals: u64,
    /// How much the write half keeps to itself until it is flushed.
    pub buffer: usize,
}

/// How an end behaves that is about to go.
#[derive(Debug, Clone)]
pub struct Manners {
    /// Ending the connection with bytes unread resets it, as for TCP: what was sent before may be lost.
    pub resets: bool,
    /// A half that is dropped ends its direction, as for pipes; else all parts together do.
    pub by_halves: bool,
    /// After a cut, what has arrived can still be read.
    pub reads_on: bool,
    /// How it says that the time is over.
    pub timeout: io::ErrorKind,
}

/// All that goes wrong on one connection: from the first end to the second, and back.
#[derive(Debug, Clone)]
pub struct Trouble {
    pub lanes: [Faults; 2],
    pub ends: [Manners; 2],
    pub seed: u64,
}

impl Faults {
    pub fn none() -> Self {
        Faults {
            grain: 1 << 20,
            capacity: 64 << 10,
            late: (0, 0),
            stall: None,
            reset: None,
            end: None,
            unwilling: 0,
            signals: 0,
            buffer: 0,
        }
    }

    fn draw(dice: &mut Dice) -> Self {
        let grain = dice.pick(&[1, 8, 200, 5000, 1 << 20]);
        let late = match dice.between(0, 3) {
            // So many pieces are not to be late one after the other.
            0 if grain <= 8 => (1, dice.pick(&[2, 20])),
            0 => (dice.pick(&[1, 20]), dice.pick(&[2, 20])),
            _ => (0, 0),
        };
        // The handshake takes the first few hundred bytes.
        let reach = match grain {
            1 | 8 => 2_000,
            _ => 50_000,
        };
        let mut at = |percent| {
            let early = dice.chance(20);
            dice.chance(percent).then(|| match early {
                true => dice.between(0, 300),
                false => 200 + dice.about(reach),
            })
        };
        let (stall, reset, end) = (at(25), at(15), at(15));
        Faults {
            grain,
            capacity: dice.pick(&[1, 50, 1000, 64 << 10, 64 << 10, 1 << 20]),
            late,
            stall: stall.map(|at| (at, dice.chance(60).then(|| dice.millis(5, 300)))),
            reset,
            end: end.map(|at| (at, dice.chance(50))),
            unwilling: dice.pick(&[0, 0, 30, 100]),
            signals: dice.pick(&[0, 0, 10]),
            buffer: dice.pick(&[0, 0, 1, 100, 10_000]),
        }
    }
}

impl Manners {
    pub fn good() -> Self {
        Manners {
            resets: false,
            by_halves: false,
            reads_on: false,
            timeout: io::ErrorKind::WouldBlock,
        }
    }

    fn draw(dice: &mut Dice) -> Self {
        Manners {
            resets: dice.chance(50),
            by_halves: dice.chance(50),
            reads_on: dice.chance(50),
            timeout: dice.pick(&[io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut]),
        }
    }
}

impl Trouble {
    pub fn none() -> Self {
        Trouble {
            lanes: [Faults::none(), Faults::none()],
            ends: [Manners::good(), Manners::good()],
            seed: 0,
        }
    }

    pub fn draw(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let mut lanes = [Faults::draw(&mut dice), Faults::draw(&mut dice)];
        // Connections on which all goes well in the end show what a clean close is worth.
        if dice.chance(40) {
            for lane in &mut lanes {
                (lane.reset, lane.end) = (None, None);
                lane.stall = lane.stall.filter(|(_, time)| time.is_some());
            }
        }
        Trouble {
            lanes,
            ends: [Manners::draw(&mut dice), Manners::draw(&mut dice)],
            seed: dice.roll(),
        }
    }

    /// Whether one side may come to hear nothing more of the other, not even that it has gone.
    pub fn may_fall_silent(&self) -> bool {
        let silent = |lane: &Faults| matches!(lane.stall, Some((_, None)));
        self.lanes.iter().any(silent)
    }

    /// Whether all arrives, however late and in whatever pieces.
    pub fn is_harmless(&self) -> bool {
        let whole = |lane: &Faults| lane.reset.is_none() && lane.end.is_none();
        self.lanes.iter().all(whole) && !self.may_fall_silent()
    }
}

/// A piece that is being written.
#[derive(Debug, Default)]
struct Piece {
    left: u64,
    late: Option<Duration>,
    unwilling: bool,
    signal_writing: bool,
    signal_reading: bool,
}

/// What was written in one go, and is read in one go or several.
#[derive(Debug)]
struct Parcel {
    len: usize,
    /// `None` is never.
    arrives: Option<Instant>,
    signal: bool,
}

struct Lane {
    faults: Faults,
    dice: Dice,
    piece: Piece,
    bytes: VecDeque<u8>,
    parcels: VecDeque<Parcel>,
    written: u64,
    /// When the last parcel arrives: none overtakes another.
    arrival: Option<Instant>,
    /// Nothing more will be written.
    finished: bool,
    /// Nobody will read.
    abandoned: bool,
    /// What is written is gone.
    swallows: bool,
    wire: Wire,
}

impl Lane {
    fn new(faults: &Faults, seed: u64, from_client: bool) -> Self {
        Lane {
            faults: faults.clone(),
            dice: Dice::new(seed),
            piece: Piece::default(),
            bytes: VecDeque::new(),
            parcels: VecDeque::new(),
            written: 0,
            arrival: Some(Instant::now()),
            finished: false,
            abandoned: false,
            swallows: false,
            wire: Wire::new(from_client),
        }
    }

    fn next_piece(&mut self) {
        let (faults, dice) = (&self.faults, &mut self.dice);
        let late = dice.chance(faults.late.0);
        self.piece = Piece {
            left: dice.between(1, faults.grain),
            late: late.then(|| dice.millis(1, faults.late.1)),
            unwilling: dice.chance(faults.unwilling),
            signal_writing: dice.chance(faults.signals),
            signal_reading: dice.chance(faults.signals),
        };
    }

    /// How many bytes until something happens.
    fn distance(&self) -> u64 {
        let Faults {
            stall, reset, end, ..
        } = &self.faults;
        let places = [stall.map(|(at, _)| at), *reset, end.map(|(at, _)| at)];
        let ahead = places.into_iter().flatten();
        ahead
            .filter_map(|at| at.checked_sub(self.written))
            .filter(|&distance| distance > 0)
            .min()
            .unwrap_or(u64::MAX)
    }

    /// Takes as much as fits, all of one piece.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let room = self.faults.capacity - self.bytes.len();
        let most = self.piece.left.min(self.distance());
        let len = room.min(bytes.len()).min(most as usize);
        let late = self.piece.late.take().unwrap_or_default();
        self.arrival = self.arrival.map(|last| last.max(Instant::now() + late));
        self.parcels.push_back(Parcel {
            len,
            arrives: self.arrival,
            signal: std::mem::take(&mut self.piece.signal_reading),
        });
        self.wire.pass(&bytes[..len]);
        self.bytes.extend(&bytes[..len]);
        self.piece.left -= len as u64;
        self.written += len as u64;
        len
    }

    /// What has arrived and not been read.
    fn arrived(&self) -> Option<&Parcel> {
        let parcel = self.parcels.front()?;
        parcel.arrives.filter(|at| *at <= Instant::now())?;
        Some(parcel)
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.parcels.clear();
    }
}

struct State {
    lanes: [Lane; 2],
    reset: bool,
    cut: [bool; 2],
    /// Ends of which a part is left.
    left: usize,
    /// For each end, the halves that are left.
    halves: [usize; 2],
}

impl State {
    fn reset(&mut self) {
        self.reset = true;
        self.lanes.iter_mut().for_each(Lane::clear);
    }

    /// What lies at the place that has just been written up to. Places that begin a stream come first.
    fn strike(&mut self, lane: usize) {
        let Lane {
            faults, written, ..
        } = &self.lanes[lane];
        let (here, faults) = (*written, faults.clone());
        let lane = &mut self.lanes[lane];
        if let Some((_, time)) = faults.stall.filter(|(at, _)| *at == here) {
            // Only once.
            lane.faults.stall = None;
            let until = time.map(|time| Instant::now() + time);
            lane.arrival = lane.arrival.and_then(|last| Some(last.max(until?)));
        }
        if let Some((_, swallows)) = faults.end.filter(|(at, _)| *at == here) {
            lane.finished = true;
            lane.swallows = swallows;
        }
        if faults.reset == Some(here) {
            self.reset();
        }
    }

    /// One end goes.
    fn end(&mut self, side: usize, resets: bool) {
        let (out, back) = (side, 1 - side);
        self.lanes[out].finished = true;
        self.lanes[out].swallows = false;
        if resets && self.is_heard(side) && !self.lanes[back].bytes.is_empty() {
            self.reset();
        }
        self.abandon(side);
    }

    /// One end reads no more.
    fn abandon(&mut self, side: usize) {
        self.lanes[1 - side].abandoned |= self.is_heard(side);
    }

    /// Whether anything comes through from this end any more.
    fn is_heard(&self, side: usize) -> bool {
        self.lanes[side].arrival.is_some()
    }
}

struct Link {
    /// Held to copy bytes in or out; nothing is called under it.
    state: Mutex<State>,
    /// For each direction: told of every change. Its waits end with bytes or room, with either end, or
    /// by their own deadline.
    changed: [Condvar; 2],
    /// Told when an end has gone.
    gone: Condvar,
}

/// Until when to wait; `None` is for ever.
type Until = Option<Instant>;

impl Link {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        for lane in &self.changed {
            lane.notify_all();
        }
    }

    fn write(
        &self,
        side: usize,
        bytes: &[u8],
        wait: Option<Until>,
        late: io::ErrorKind,
    ) -> io::Result<usize> {
        let mut state = self.state.lock();
        loop {
            if state.cut[side] {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if state.lanes[side].written == 0 {
                state.strike(side);
            }
            if state.reset {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            let lane = &mut state.lanes[side];
            if lane.swallows || bytes.is_empty() {
                return Ok(bytes.len());
            }
            if lane.finished || lane.abandoned {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if lane.piece.left == 0 {
                lane.next_piece();
            }
            if std::mem::take(&mut lane.piece.signal_writing) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let full = lane.bytes.len() == lane.faults.capacity;
            match wait {
                None if full || lane.piece.unwilling => {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Some(until) if full => self.wait(&mut state, side, until, late)?,
                _ => {
                    let taken = lane.take(bytes);
                    state.strike(side);
                    let reset = state.reset;
                    drop(state);
                    self.changed[side].notify_all();
                    if reset {
                        self.changed[1 - side].notify_all();
                    }
                    return Ok(taken);
                }
            }
        }
    }

    fn read(
        &self,
        side: usize,
        buffer: &mut [u8],
        until: Until,
        manners: &Manners,
    ) -> io::Result<usize> {
        let back = 1 - side;
        let mut state = self.state.lock();
        loop {
            let cut = state.cut[side];
            if state.reset && !cut {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            let lane = &mut state.lanes[back];
            if cut && !(manners.reads_on && lane.arrived().is_some()) {
                return Ok(0);
            }
            if let Some(parcel) = lane.arrived() {
                let len = parcel.len.min(buffer.len());
                let parcel = lane.parcels.front_mut().unwrap();
                if std::mem::take(&mut parcel.signal) {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                parcel.len -= len;
                if parcel.len == 0 {
                    lane.parcels.pop_front();
                }
                for (to, byte) in buffer.iter_mut().zip(lane.bytes.drain(..len)) {
                    *to = byte;
                }
                drop(state);
                self.changed[back].notify_all();
                return Ok(len);
            }
            let arrives = lane.parcels.front().map(|parcel| parcel.arrives);
            if arrives.is_none() && lane.finished && lane.arrival.is_some() {
                return Ok(0);
            }
            match arrives.flatten() {
                // The time is over at the earlier of the two; which it was, the next turn finds.
                Some(arrival) if until.is_none_or(|until| arrival < until) => {
                    self.changed[back].wait_until(&mut state, arrival);
                }
                _ => self.wait(&mut state, back, until, manners.timeout)?,
            }
        }
    }

    fn wait(
        &self,
        state: &mut MutexGuard<'_, State>,
        lane: usize,
        until: Until,
        late: io::ErrorKind,
    ) -> io::Result<()> {
        match until {
            None => self.changed[lane].wait(state),
            Some(until) if Instant::now() >= until => return Err(late.into()),
            Some(until) => drop(self.changed[lane].wait_until(state, until)),
        }
        Ok(())
    }
}

/// What the parts of one end have in common.
struct End {
    link: Arc<Link>,
    side: usize,
    manners: Manners,
}

impl Drop for End {
    fn drop(&mut self) {
        self.link.change(|state| {
            state.end(self.side, self.manners.resets);
            state.left -= 1;
        });
        self.link.gone.notify_all();
    }
}

/// One end of the connection.
pub struct Faulty {
    end: Arc<End>,
    buffer: usize,
}

/// Looks at the connection from outside.
#[derive(Clone)]
pub struct Observer(Arc<Link>);

/// Two ends, the first of which is the client's.
pub fn pair(trouble: &Trouble) -> (Faulty, Faulty, Observer) {
    let lane = |n: usize| Lane::new(&trouble.lanes[n], trouble.seed ^ n as u64, n == 0);
    let link = Arc::new(Link {
        state: Mutex::new(State {
            lanes: [lane(0), lane(1)],
            reset: false,
            cut: [false; 2],
            left: 2,
            halves: [0; 2],
        }),
        changed: [Condvar::new(), Condvar::new()],
        gone: Condvar::new(),
    });
    let end = |side: usize| Faulty {
        end: Arc::new(End {
            link: link.clone(),
            side,
            manners: trouble.ends[side].clone(),
        }),
        buffer: trouble.lanes[side].buffer,
    };
    (end(0), end(1), Observer(link.clone()))
}

impl Observer {
    /// The connection breaks, here and now.
    pub fn reset(&self) {
        self.0.change(State::reset);
    }

    /// Waits until nobody has a part of either end any more.
    pub fn wait_until_both_have_gone(&self, until: Instant) -> bool {
        let mut state = self.0.state.lock();
        while state.left > 0 {
            if self.0.gone.wait_until(&mut state, until).timed_out() {
                return state.left == 0;
            }
        }
        true
    }

    /// How many halves of this end somebody still has.
    pub fn halves(&self, side: usize) -> usize {
        self.0.state.lock().halves[side]
    }

    /// What was wrong with the bytes that were written, in either direction.
    pub fn wrong_on_the_wire(&self) -> Vec<String> {
        let state = self.0.state.lock();
        let wires = state.lanes.iter().map(|lane| &lane.wire);
        wires.filter_map(|wire| wire.wrong()).collect()
    }
}

impl Faulty {
    /// As a blocking stream, for what comes before the WebSocket.
    pub fn read_until(&mut self, buffer: &mut [u8], until: Instant) -> io::Result<usize> {
        let End {
            link,
            side,
            manners,
        } = &*self.end;
        link.read(*side, buffer, Some(until), manners)
    }
}

impl Transport for Faulty {
    fn split(self: Box<Self>) -> io::Result<Halves> {
        let End { link, side, .. } = &*self.end;
        link.change(|state| state.halves[*side] = 2);
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
        let End {
            link,
            side,
            manners,
        } = &*self.end;
        link.read(*side, buffer, deadline(self.timeout), manners)
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
        let End {
            link,
            side,
            manners,
        } = &*self.end;
        link.change(|state| {
            state.halves[*side] -= 1;
            if manners.by_halves {
                state.abandon(*side);
            }
        });
    }
}

struct FaultyWrite {
    end: Arc<End>,
    timeout: Option<Duration>,
    kept: Vec<u8>,
    buffer: usize,
}

impl FaultyWrite {
    fn pass(&self, bytes: &[u8], wait: Option<Until>) -> io::Result<usize> {
        let End {
            link,
            side,
            manners,
        } = &*self.end;
        link.write(*side, bytes, wait, manners.timeout)
    }

    fn put(&mut self, bytes: &[u8], wait: Option<Until>) -> io::Result<usize> {
        if self.buffer == 0 {
            return self.pass(bytes, wait);
        }
        if self.kept.len() == self.buffer {
            let passed = self.pass(&self.kept, wait)?;
            self.kept.drain(..passed);
        }
        let fits = bytes.len().min(self.buffer - self.kept.len());
        self.kept.extend_from_slice(&bytes[..fits]);
        Ok(fits)
    }

    fn push_on(&mut self, mut wait: impl FnMut() -> Option<Until>) -> io::Result<()> {
        while !self.kept.is_empty() {
            match self.pass(&self.kept, wait()) {
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
        self.push_on(|| Some(deadline(timeout)))
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
        self.push_on(|| None)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        let side = self.end.side;
        self.end
            .link
            .change(|state| state.lanes[side].finished = true);
        Ok(())
    }
}

impl Drop for FaultyWrite {
    fn drop(&mut self) {
        let End {
            link,
            side,
            manners,
        } = &*self.end;
        link.change(|state| {
            state.halves[*side] -= 1;
            state.lanes[*side].finished |= manners.by_halves;
        });
    }
}

struct FaultyShutdown(Arc<End>);

impl ShutdownHandle for FaultyShutdown {
    fn shutdown(&self) {
        let End {
            link,
            side,
            manners,
        } = &*self.0;
        link.change(|state| {
            if !std::mem::replace(&mut state.cut[*side], true) {
                state.end(*side, manners.resets);
            }
        });
    }
}
