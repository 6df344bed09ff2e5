//! Functions that give a header for each attempt.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::unbounded;
use rtcbot_websocket::{Error, Options, Server, Websocket};

use crate::testkit::{DEADLINE, eventually, last_error, own_address, within};
use crate::{options, soon};

#[test]
fn an_error_of_a_header_function_may_use_the_websocket_when_it_is_dropped() {
    struct Nosy(rtcbot_websocket::WeakWebsocket);
    impl Drop for Nosy {
        fn drop(&mut self) {
            let _ = self.0.upgrade().map(|ws| ws.is_ready());
        }
    }
    impl std::fmt::Debug for Nosy {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Nosy")
        }
    }
    impl std::fmt::Display for Nosy {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("no token")
        }
    }
    impl std::error::Error for Nosy {}

    let (give, take) = crossbeam_channel::bounded(1);
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = attempts.clone();
    let options = options(soon()).header_with("X-Token", move || {
        counted.fetch_add(1, Ordering::SeqCst);
        let own: rtcbot_websocket::WeakWebsocket = take.recv_timeout(DEADLINE)?;
        Err(Nosy(own).into())
    });
    let ws = options.connect("ws://127.0.0.1:1/").unwrap();
    for n in 1..10 {
        give.send_timeout(ws.downgrade(), DEADLINE).unwrap();
        eventually("an attempt", || attempts.load(Ordering::SeqCst) >= n);
    }
    let asked = ws.clone();
    assert!(!within(DEADLINE, move || asked.is_ready()));
    drop(give);
}

#[test]
fn headers_are_renewed_for_each_attempt() {
    let mut server = Server::bind((own_address(), 0)).unwrap();
    let count = AtomicUsize::new(0);
    let options = options(soon()).header_with("X-Token", move || {
        match count.fetch_add(1, Ordering::SeqCst) {
            1 => Err("no token today".into()),
            n => Ok(format!("token {n}")),
        }
    });
    let ws = options.connect(server.url()).unwrap();
    for token in ["token 0", "token 2", "token 3"] {
        let request = server.next_timeout(DEADLINE).unwrap();
        assert_eq!(request.head().headers()["x-token"], token);
        if token == "token 2" {
            let last = last_error(&ws).unwrap().to_string();
            assert!(last.contains("no token today"), "{last}");
        }
        request.respond(503, "come back").unwrap();
    }
}

#[test]
fn a_header_function_that_panics_or_returns_an_invalid_value_fails_one_attempt() {
    let mut server = Server::bind((own_address(), 0)).unwrap();
    let count = AtomicUsize::new(0);
    let options =
        options(soon())
            .header("X-Token", "never seen")
            .header_with("x-token", move || {
                match count.fetch_add(1, Ordering::SeqCst) {
                    0 => panic!("on purpose"),
                    1 => Ok("two\r\nlines".into()),
                    _ => Ok("fine".into()),
                }
            });
    let ws = options.connect(server.url()).unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    let mut tokens = request.head().headers().get_all("x-token").iter();
    assert_eq!(tokens.next().unwrap(), "fine");
    assert!(tokens.next().is_none());
    assert!(matches!(last_error(&ws), Some(Error::Header { .. })));
}

#[test]
fn a_panic_payload_of_a_header_function_may_panic_when_it_is_dropped() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("when dropped, on purpose");
        }
    }
    let mut server = Server::bind((own_address(), 0)).unwrap();
    let count = AtomicUsize::new(0);
    let options = options(soon()).header_with("X-Token", move || {
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            std::panic::panic_any(Bomb);
        }
        Ok("fine".into())
    });
    let ws = options.connect(server.url()).unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    assert_eq!(request.head().headers()["x-token"], "fine");
    assert!(matches!(last_error(&ws), Some(Error::Header { .. })));
}

#[test]
fn a_header_function_that_owns_its_websocket_is_dropped_at_the_end() {
    let mut server = Server::bind((own_address(), 0)).unwrap();
    let (give, take) = crossbeam_channel::bounded::<Websocket>(1);
    let alive = Arc::new(());
    let (held, own) = (alive.clone(), std::sync::OnceLock::new());
    let options = Options::new().header_with("X-Token", move || {
        let ws = own.get_or_init(|| take.recv().unwrap());
        Ok(format!("{} {}", ws.name().len(), Arc::strong_count(&held)))
    });
    let ws = options.connect(server.url()).unwrap();
    drop(options);
    give.send(ws.clone()).unwrap();
    let _peer = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    let weak = ws.downgrade();
    ws.close().unwrap();
    drop(ws);
    eventually("the function is dropped", || Arc::strong_count(&alive) == 1);
    assert!(weak.upgrade().is_none());
}

#[test]
fn a_failing_header_function_ends_a_client_without_reconnect() {
    let ws = Options::new()
        .header_with("Authorization", || Err("no token".into()))
        .connect("ws://127.0.0.1:1/")
        .unwrap();
    let error = ws.wait_closed_timeout(DEADLINE).unwrap_err();
    assert!(matches!(error, Error::Header { .. }), "{error}");
}

#[test]
fn a_put_in_a_header_function_does_not_wait_for_room() {
    let (give, take) = crossbeam_channel::bounded::<Websocket>(1);
    let (told, result) = unbounded();
    let options = options(soon())
        .send_queue(100)
        .header_with("X-Token", move || {
            let ws = take.recv_timeout(DEADLINE)?;
            told.send(ws.put(vec![0; 90]).is_err_and(|error| error.is_full()))?;
            Ok("token".to_owned())
        });
    let ws = options.connect("ws://127.0.0.1:1/").unwrap();
    ws.put_nowait(vec![0; 90]).unwrap();
    give.send(ws.clone()).unwrap();
    assert_eq!(result.recv_timeout(DEADLINE), Ok(true));
    drop(give);
    let _ = within(DEADLINE, move || ws.close());
}
