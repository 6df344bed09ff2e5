//! The stacks of a connection's threads have the size that is set.

mod testkit;

use std::hint::black_box;

use rtcbot_websocket::{Message, Options, Server, Value, crossbeam_channel::unbounded};
use testkit::{DEADLINE, alone, eventually, own_address, reserved, threads_named};

const MIB: usize = 1 << 20;

/// Uses at least this many bytes of stack.
fn use_stack(bytes: usize) {
    let frame = [0u8; 16 << 10];
    black_box(&frame);
    if bytes > frame.len() {
        use_stack(bytes - frame.len());
    }
    black_box(&frame);
}

#[test]
fn functions_of_the_program_have_the_stack_that_is_set() {
    let mut server = Server::bind((own_address(), 0)).unwrap();
    let (done, calls) = unbounded();
    let call = move |name| {
        use_stack(16 * MIB);
        done.send(name).unwrap();
    };
    let (on_read, on_dispatch, on_worker) = (call.clone(), call.clone(), call);
    let client = Options::new()
        .thread_stack_size(64 * MIB)
        .header_with("X-Token", move || {
            on_read("ws-read");
            Ok("token".to_owned())
        })
        .connect(server.url())
        .unwrap();
    client.subscribe_callback(move |_| on_dispatch("ws-dispatch"));
    client.subscribe_concurrent(1, move |_| on_worker("ws-worker"));
    let peer = Options::new().accept(server.next_timeout(DEADLINE).unwrap());
    peer.put_nowait(1).unwrap();
    let mut names = [(); 3].map(|()| calls.recv_timeout(DEADLINE).unwrap());
    names.sort();
    assert_eq!(names, ["ws-dispatch", "ws-read", "ws-worker"]);
}

#[test]
fn the_deepest_json_can_be_read_on_the_smallest_stack() {
    let (robot, operator) = Options::new().thread_stack_size(0).json(false).pair();
    let (done, calls) = unbounded();
    robot.subscribe_callback(move |message| {
        let value = message.decode::<Value>().unwrap();
        done.send(Message::from(value).to_string()).unwrap();
    });
    let deepest = format!("{}[]{}", r#"{"a":"#.repeat(126), "}".repeat(126));
    operator.put_nowait(&*deepest).unwrap();
    assert_eq!(calls.recv_timeout(DEADLINE).unwrap(), deepest);
}

#[test]
#[cfg(target_os = "linux")]
fn every_thread_has_the_stack_that_is_set() {
    alone("every_thread_has_the_stack_that_is_set", || {
        let size = 256 * MIB;
        let before = reserved();
        let (robot, operator) = Options::new().thread_stack_size(size).pair();
        robot.subscribe_callback(|_| {});
        robot.subscribe_concurrent(1, |_| {});
        let names = ["ws-read", "ws-write", "ws-dispatch", "ws-worker"];
        eventually("all threads have started", || {
            operator.put_nowait(1).unwrap();
            names.map(threads_named) == [2, 2, 1, 1]
        });
        let grown = reserved() - before;
        assert!(grown > 6 * size && grown < 7 * size, "{grown}");
    });
}
