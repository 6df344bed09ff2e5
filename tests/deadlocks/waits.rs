//! Every wait ends when the connection does.

use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvError, bounded};
use rtcbot_websocket::{Error, Message, PutError, Subscription, Websocket, json};

use crate::testkit::wire::over_each;
use crate::testkit::{DEADLINE, end_reason, eventually_asleep, is_closed_by_peer, within};
use crate::{ENDS, End, HOUR, disconnected};

// websockets 1449: `close()` on another thread leaves `recv` blocked.
#[test]
fn every_blocked_get_and_wait_wakes_when_the_connection_ends_and_returns_the_reason() {
    type Call = fn(&Websocket, &Subscription<Message>, End);
    const CALLS: [Call; 11] = [
        |ws, _, end| end.check(&ws.get().unwrap_err()),
        |ws, _, end| end.check(&ws.get_timeout(HOUR).unwrap_err()),
        |_, own, end| end.check(&own.get().unwrap_err()),
        |_, own, end| end.check(&own.get_timeout(HOUR).unwrap_err()),
        |_, own, end| {
            assert_eq!(own.iter().count(), 0);
            end.check(&own.try_get().unwrap_err());
        },
        |ws, own, end| {
            own.receiver().recv().unwrap_err();
            end.check(&end_reason(ws).unwrap());
        },
        |ws, _, end| {
            assert_eq!(ws.closed_signal().recv(), Err(RecvError));
            end.check(&end_reason(ws).unwrap());
        },
        |ws, _, end| end.check_failure(ws.wait_closed().err()),
        |ws, _, end| end.check_failure(ws.wait_closed_timeout(HOUR).err()),
        |ws, _, end| {
            let (sender, told) = bounded(1);
            ws.on_close(move || sender.send(()).unwrap());
            told.recv().unwrap();
            end.check(&end_reason(ws).unwrap());
        },
        |ws, _, end| {
            let (sender, told) = bounded(1);
            ws.on_error(move |error| sender.send(error).unwrap());
            end.check_failure(told.recv().ok());
        },
    ];
    over_each(|wire| {
        for end in ENDS {
            let (client, raw) = wire.client_and_raw(|options| end.options(options));
            let waiting: Vec<_> = CALLS
                .into_iter()
                .map(|call| {
                    let (client, own) = (client.clone(), client.subscribe());
                    let thread = thread::Builder::new().name("waits-1449".into());
                    thread.spawn(move || call(&client, &own, end)).unwrap()
                })
                .collect();
            if !matches!(end, End::Silence) {
                eventually_asleep("waits-1449", CALLS.len());
            }
            end.come(&client, raw);
            for thread in waiting {
                within(DEADLINE, move || thread.join()).unwrap();
            }
        }
    });
}

#[test]
fn every_blocked_put_wakes_when_the_connection_ends_and_returns_its_message() {
    type Put = fn(&Websocket, Message) -> Result<(), PutError<Message>>;
    const PUTS: [Put; 2] = [
        |ws, message| ws.put(message),
        |ws, message| ws.put_timeout(message, HOUR),
    ];
    over_each(|wire| {
        for end in ENDS {
            let (client, mut raw) = wire.client_and_raw(|options| {
                end.options(options)
                    .send_queue(1)
                    .close_timeout(Duration::from_millis(100))
            });
            let message = || Message::from(vec![1; 1 << 20]);
            let putting: Vec<_> = PUTS
                .into_iter()
                .map(|put| {
                    let client = client.clone();
                    let thread = thread::Builder::new().name("puts-1449".into());
                    let put = move || loop {
                        if let Err(error) = put(&client, message()) {
                            return error;
                        }
                    };
                    thread.spawn(put).unwrap()
                })
                .collect();
            if !matches!(end, End::Silence) {
                // The peer reads nothing.
                eventually_asleep("puts-1449", PUTS.len());
            }
            match end {
                End::Close => drop(client.close()),
                End::PeerCloses => raw.close(None).unwrap(),
                End::Cut => raw.socket.shutdown(Shutdown::Both).unwrap(),
                End::Silence => {}
            }
            for thread in putting {
                let error = within(DEADLINE, move || thread.join()).unwrap();
                assert_eq!(error, PutError::Closed(message()), "{end:?}");
            }
            let _ = client.wait_closed_timeout(DEADLINE);
            match end_reason(&client).unwrap() {
                // Accepted messages may not have arrived.
                Error::CloseTimeout { .. } if matches!(end, End::Close | End::PeerCloses) => {}
                reason => end.check(&reason),
            }
        }
    });
}

// daydreamlive/DEMON 295: the peer stops reading, sending holds the lock, the ping waits for the
// lock, and the failure is noticed after 13 minutes.
#[test]
fn a_peer_that_accepts_no_bytes_is_reported_within_ping_interval_and_ping_timeout() {
    over_each(|wire| {
        // Long enough to fill all buffers before a ping is due, which would otherwise be sent
        // first.
        let (interval, timeout) = (Duration::from_millis(300), Duration::from_millis(100));
        let bound = interval + timeout + Duration::from_millis(200);
        let found_after = |_| {
            let (client, _raw) = wire.client_and_raw(|options| {
                options
                    .ping_interval(interval)
                    .ping_timeout(timeout)
                    .send_queue(1 << 20)
            });
            let putting = thread::spawn({
                let client = client.clone();
                move || {
                    let mut last = Instant::now();
                    while client.put(vec![0; 100_000]).is_ok() {
                        last = Instant::now();
                    }
                    last
                }
            });
            let error = client.wait_closed_timeout(DEADLINE).unwrap_err();
            let found = Instant::now();
            assert!(matches!(error, Error::PingTimeout { .. }), "{error}");
            found - putting.join().unwrap()
        };
        // A busy machine may be late, but not every time.
        let in_time = (0..10).map(found_after).any(|time| time < bound);
        assert!(in_time, "not once in {bound:?}");
    });
}

// jetty 4781 and 272: a blocked write hangs for ever.
#[test]
fn a_blocked_write_ends_with_the_connection() {
    over_each(|wire| {
        for dropped in [false, true] {
            let timeout = Duration::from_millis(100);
            // Without pings, only the end of the connection ends the write.
            let (client, _raw) = wire.client_and_raw(|options| {
                options
                    .ping_interval(None)
                    .send_queue(1)
                    .close_timeout(timeout)
                    .linger(timeout)
            });
            let messages = client.subscribe();
            let closed = client.closed_signal().clone();
            // The writer takes the first one, the second one then fits, and the third one does not.
            let message = vec![0; 15 << 20];
            client.put(message.clone()).unwrap();
            client.put_timeout(message.clone(), DEADLINE).unwrap();
            let full = client.put_timeout(message, Duration::from_millis(10));
            assert!(full.unwrap_err().is_full());
            if dropped {
                within(DEADLINE, move || drop(client));
            } else {
                let error = within(DEADLINE, move || client.close()).unwrap_err();
                assert!(matches!(error, Error::CloseTimeout { .. }), "{error}");
            }
            // It disconnects when both threads have ended, including the writer.
            assert_eq!(closed.recv_timeout(DEADLINE), disconnected());
            let error = messages.get().unwrap_err();
            assert!(
                matches!(error, Error::CloseTimeout { unsent: 2, .. }),
                "{error}"
            );
        }
    });
}

// RTCBot's `websocket.py`: `get()` after the end waits for ever.
#[test]
fn get_after_the_end_returns_the_queued_messages_and_then_the_reason() {
    over_each(|wire| {
        let (client, server) = wire.pair(|options| options);
        assert!(matches!(client.try_get(), Err(Error::Empty)));
        server.put_nowait(json!("last words")).unwrap();
        server.close().unwrap();
        client.wait_closed_timeout(DEADLINE).unwrap();
        within(DEADLINE, move || {
            assert_eq!(client.get().unwrap(), "last words");
            for _ in 0..2 {
                assert!(is_closed_by_peer(&client.get().unwrap_err()));
            }
            // A call that begins only now returns too.
            client.unsubscribe_default();
            assert!(is_closed_by_peer(&client.get().unwrap_err()));
        });
    });
}

// RTCBot's `websocket.py`: `onError()` cannot be awaited.
#[test]
fn wait_closed_returns_the_error_unless_the_end_is_orderly() {
    over_each(|wire| {
        for end in ENDS {
            let (client, raw) = wire.client_and_raw(|options| end.options(options));
            let waiting = thread::spawn({
                let client = client.clone();
                move || client.wait_closed().err()
            });
            end.come(&client, raw);
            end.check_failure(within(DEADLINE, move || waiting.join()).unwrap());
        }
    });
}
