//! Callbacks may call anything.

use std::net::{Shutdown, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{bounded, unbounded};
use rtcbot_websocket::{Backoff, Error, Message, PutError, Queue, Sink, Websocket, json};

use crate::testkit::wire::{Raw, Wire, over_each};
use crate::testkit::{DEADLINE, alone, eventually, eventually_asleep, on_loss};
use crate::{End, HOUR, disconnected};

/// The callbacks of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Callback {
    OnReady,
    OnError,
    OnClose,
    Message,
    Concurrent,
    /// Not a callback: it is called on the reader thread.
    Sink,
    /// For a client that reconnects.
    OnDisconnect,
    /// The function of `header_with`, which is also called on the reader thread.
    Header,
}

/// Callbacks that any client may have.
const CALLBACKS: [Callback; 6] = [
    Callback::OnReady,
    Callback::OnError,
    Callback::OnClose,
    Callback::Message,
    Callback::Concurrent,
    Callback::Sink,
];

impl Callback {
    /// Arranges for `f` to be called once, with the handle that it receives.
    fn register(self, ws: Websocket, f: impl FnOnce(Websocket) + Send + 'static) {
        struct Calls<F>(F);
        impl<F: Fn() + Send + Sync + 'static> Sink<Message> for Calls<F> {
            fn put_nowait(&self, _: Message) -> Result<(), PutError<Message>> {
                (self.0)();
                Ok(())
            }
        }
        let handle = ws.downgrade();
        let once = std::sync::Mutex::new(Some(move || f(ws)));
        let call = move || {
            let f = once.lock().unwrap().take();
            if let Some(f) = f {
                f();
            }
        };
        let ws = handle.upgrade().unwrap();
        match self {
            Callback::OnReady => ws.on_ready(call),
            Callback::OnError => ws.on_error(move |_| call()),
            Callback::OnClose => ws.on_close(call),
            Callback::Message => drop(ws.subscribe_callback(move |_| call())),
            Callback::Concurrent => drop(ws.subscribe_concurrent(2, move |_| call())),
            Callback::Sink => drop(ws.subscribe_to(Calls(call))),
            Callback::OnDisconnect => on_loss(&ws, move |_| call()),
            Callback::Header => panic!("is not registered but a setting"),
        }
    }

    /// Makes the callback be called, and reads until the connection ends.
    fn provoke(self, mut raw: Raw) {
        match self {
            Callback::OnReady | Callback::Header => {}
            Callback::OnError | Callback::OnDisconnect => {
                drop(raw.socket.shutdown(Shutdown::Both));
            }
            Callback::OnClose => raw.close(None).unwrap(),
            Callback::Message | Callback::Concurrent | Callback::Sink => {
                raw.send(tungstenite::Message::text("1")).unwrap();
            }
        }
        raw.pump();
    }
}

/// Returns a client that hangs if a wait is ended only by its timeout, and its server.
fn patient_client(wire: &Wire) -> (Websocket, TcpListener) {
    let (listener, url) = wire.listen();
    let options = wire.options().close_timeout(HOUR).linger(HOUR);
    (options.connect(url).unwrap(), listener)
}

/// Calls `f` in each callback of a client, with the only handle to it. Panics if `f` does not
/// return.
fn in_each_callback(wire: &Wire, f: impl Fn(Callback, Websocket) + Copy + Send + 'static) {
    for callback in CALLBACKS {
        // Shown when it fails.
        eprintln!("{callback:?}");
        let (client, listener) = patient_client(wire);
        let (sender, returned) = bounded(1);
        callback.register(client, move |ws| {
            f(callback, ws);
            sender.send(()).unwrap();
        });
        callback.provoke(wire.accept(&listener));
        assert_eq!(returned.recv_timeout(DEADLINE), Ok(()), "{callback:?}");
    }
}

// IXWebSocket 223: the callback for the end joins a thread that is sending, and both wait for ever.
#[test]
fn any_method_may_be_called_from_any_callback() {
    over_each(|wire| {
        in_each_callback(wire, |callback, ws| call_everything(&ws, callback));
    });
}

fn call_everything(ws: &Websocket, callback: Callback) {
    let moment = Duration::from_millis(1);
    let _ = ws.put(json!(1));
    let _ = ws.put_nowait(json!(1));
    let _ = ws.put_timeout(json!(1), HOUR);
    let _ = ws.put_subscription(unbounded::<Message>().1);
    drop(ws.subscription());
    ws.stop_subscription();
    let _ = (ws.try_get(), ws.get_timeout(moment));
    ws.unsubscribe_default();
    ws.unsubscribe(ws.subscribe());
    ws.unsubscribe(ws.subscribe_with(Queue::Latest));
    ws.unsubscribe(ws.subscribe_to(unbounded().0));
    ws.unsubscribe(ws.subscribe_callback(|_| {}));
    ws.unsubscribe(ws.subscribe_concurrent(1, |_| {}));
    ws.resume();
    ws.on_ready(|| {});
    ws.on_error(|_| {});
    ws.on_close(|| {});
    ws.on_event(|_| {});
    let _ = (ws.is_ready(), ws.is_closed(), ws.error(), ws.state());
    let _ = ws.events().try_get();
    let _ = (ws.stats().latency, ws.stats(), ws.ping("ping"));
    let _ = (ws.name(), ws.peer_addr(), ws.local_addr(), ws.subprotocol());
    let _ = (ws.request(), ws.response(), format!("{ws:?}"));
    if callback != Callback::OnDisconnect {
        // It is not ready, and will not be for an hour.
        let _ = (ws.wait_ready(), ws.wait_ready_timeout(HOUR));
    }
    let _ = ws.closed_signal().recv_timeout(moment);
    let _ = ws.wait_closed_timeout(moment);
    let closed = [
        ws.close_with(4000, "from a callback"),
        ws.close(),
        ws.wait_closed(),
        ws.close_timeout(HOUR),
    ];
    ws.close_nowait(4000, "from a callback").unwrap();
    let _ = (ws.received_close(), ws.reconnect_now());
    if callback == Callback::Header {
        // It must not wait for its own thread, and therefore not for the end or for a message.
        while ws.try_get().is_ok() {}
        assert!(matches!(ws.get(), Err(Error::OwnThread)));
        assert!(matches!(ws.get_timeout(HOUR), Err(Error::OwnThread)));
        for closed in closed {
            assert!(matches!(closed, Err(Error::OwnThread)), "{closed:?}");
        }
    } else {
        assert!(ws.is_closed());
        ws.abort();
        while ws.get().is_ok() {}
    }
    ws.unsubscribe_all();
}

#[test]
fn the_last_handle_may_be_dropped_in_any_callback() {
    over_each(|wire| {
        in_each_callback(wire, |_, ws| {
            let weak = ws.downgrade();
            drop(ws);
            assert!(weak.upgrade().is_none());
        });
    });
}

#[test]
fn any_method_may_be_called_when_a_connection_is_lost() {
    over_each(|wire| {
        let callback = Callback::OnDisconnect;
        for calls in [true, false] {
            let (listener, url) = wire.listen();
            let later = Backoff::new().initial(HOUR).max(HOUR);
            let options = wire
                .options()
                .close_timeout(HOUR)
                .linger(HOUR)
                .reconnect(later);
            let client = options.connect(url).unwrap();
            let end = client.closed_signal().clone();
            let (sender, done) = bounded(1);
            callback.register(client, move |ws| {
                if calls {
                    call_everything(&ws, callback);
                }
                // It is the last handle.
                drop(ws);
                sender.send(()).unwrap();
            });
            callback.provoke(wire.accept(&listener));
            assert_eq!(done.recv_timeout(DEADLINE), Ok(()));
            assert_eq!(end.recv_timeout(DEADLINE), disconnected());
        }
    });
}

#[test]
fn any_method_may_be_called_from_the_function_for_a_header() {
    over_each(|wire| {
        for calls in [true, false] {
            let (listener, url) = wire.listen();
            let (give, given) = bounded::<Websocket>(1);
            let (sender, done) = bounded(1);
            let options =
                wire.options()
                    .close_timeout(HOUR)
                    .linger(HOUR)
                    .header_with("X-Test", move || {
                        let ws = given.recv_timeout(DEADLINE)?;
                        if calls {
                            call_everything(&ws, Callback::Header);
                        }
                        drop(ws);
                        sender.send(()).unwrap();
                        Ok("test".to_owned())
                    });
            let client = options.connect(url).unwrap();
            let end = client.closed_signal().clone();
            give.send(client).unwrap();
            assert_eq!(done.recv_timeout(DEADLINE), Ok(()));
            if calls {
                // Messages are waiting to be sent. Without them, the client is given up.
                Callback::Header.provoke(wire.accept(&listener));
            }
            assert_eq!(end.recv_timeout(DEADLINE), disconnected());
        }
    });
}

#[test]
fn on_close_may_join_a_thread_that_is_sending() {
    over_each(|wire| {
        for callback in [Callback::OnClose, Callback::OnError] {
            let (client, raw) =
                wire.client_and_raw(|options| options.send_queue(1).close_timeout(HOUR));
            let sending = {
                let client = client.clone();
                let thread = thread::Builder::new().name("sends-223".into());
                let send = move || while client.put(vec![0; 1 << 20]).is_ok() {};
                thread.spawn(send).unwrap()
            };
            let (sender, done) = bounded(1);
            callback.register(client, move |_| {
                sender.send(sending.join().is_ok()).unwrap();
            });
            eventually_asleep("sends-223", 1);
            // A thread that writes to it notices nothing.
            raw.socket.shutdown(Shutdown::Write).unwrap();
            assert_eq!(done.recv_timeout(DEADLINE), Ok(true), "{callback:?}");
        }
    });
}

// IXWebSocket's new server API, according to its README: a callback that owns its socket leaks it.
#[test]
#[cfg(target_os = "linux")]
fn a_callback_that_holds_its_own_websocket_leaks_neither_memory_nor_threads() {
    const MIB: usize = 1 << 20;
    let test =
        "callbacks::a_callback_that_holds_its_own_websocket_leaks_neither_memory_nor_threads";
    alone(test, || {
        over_each(|wire| {
            let mut before = 0;
            for n in 0..100 {
                let alive = Arc::new(());
                let end = [End::Close, End::PeerCloses, End::Cut][n % 3];
                let (client, raw) = wire.client_and_raw(|options| end.options(options));
                for callback in CALLBACKS {
                    let held = (alive.clone(), vec![1u8; MIB]);
                    // Most are never called.
                    callback.register(client.clone(), move |_| drop(held));
                }
                end.come(&client, raw);
                let weak = client.downgrade();
                drop(client);
                eventually("all callbacks are dropped", || {
                    Arc::strong_count(&alive) == 1
                });
                eventually("the last handle is dropped", || weak.upgrade().is_none());
                eventually("no thread is left", || {
                    crate::testkit::threads_named("ws-") == 0
                });
                if n == 20 {
                    before = crate::testkit::resident();
                }
            }
            // A leak of the last 79 connections would be 6 MiB each.
            let grown = crate::testkit::resident().saturating_sub(before);
            assert!(grown < 79 * MIB, "{grown} bytes");
        });
    });
}

// nv-websocket-client 99: a callback on the writer thread fills the queue that this thread empties.
#[test]
fn a_callback_that_puts_more_than_the_queue_holds_makes_progress() {
    const COUNT: usize = 2000;
    over_each(|wire| {
        for callback in CALLBACKS {
            let (listener, url) = wire.listen();
            let options = wire.options();
            // Room for about ten.
            let client = options.send_queue(1000).connect(url).unwrap();
            let (sender, done) = bounded(1);
            callback.register(client.clone(), move |ws| {
                let put = (0..COUNT).take_while(|n| ws.put(json!(n)).is_ok());
                sender.send(put.count()).unwrap();
            });
            let raw = wire.accept(&listener);
            let pumping = thread::spawn(move || callback.provoke(raw));
            // After the end, nothing is accepted.
            let expected = match callback {
                Callback::OnError | Callback::OnClose => 0,
                _ => COUNT,
            };
            assert_eq!(done.recv_timeout(DEADLINE), Ok(expected), "{callback:?}");
            drop(client);
            pumping.join().unwrap();
        }
    });
}

// The same in the other direction: the queue of callbacks is full, and the callback waits for later
// messages.
#[test]
fn a_callback_may_wait_for_messages_and_for_the_end_while_more_messages_arrive() {
    // More than may wait for a callback.
    const COUNT: u32 = 5000;
    for workers in [0, 1, 3] {
        let (client, server) = crate::testkit::pair();
        let (own, orders) = (client.clone(), client.subscribe_with(Queue::Unbounded));
        let (sender, told) = unbounded();
        let wait = move |first: bool| {
            if first {
                let got = (0..COUNT).filter(|_| orders.get().is_ok()).count();
                own.wait_closed().unwrap();
                sender.send((got, own.is_closed())).unwrap();
            }
        };
        let first = AtomicBool::new(true);
        let call = move |_| wait(first.swap(false, Ordering::SeqCst));
        match workers {
            0 => client.subscribe_callback(call),
            workers => client.subscribe_concurrent(workers, call),
        };
        let putting = thread::spawn(move || {
            for n in 0..COUNT {
                server.put(json!(n)).unwrap();
            }
            server.close()
        });
        let told = told.recv_timeout(DEADLINE).unwrap();
        assert_eq!(told, (COUNT as usize, true));
        putting.join().unwrap().unwrap();
    }
}
