//! No thread outlives its connection or server. The only test of its process, since it counts all
//! threads.

mod testkit;

use rtcbot_websocket::json;
use testkit::{eventually, pair, threads_named};

#[test]
fn threads_end_with_their_connections() {
    for _ in 0..100 {
        let (client, server) = pair();
        client.subscribe_callback(|_| {});
        client.subscribe_concurrent(2, |_| {});
        server.on_close(|| {});
        server.put_nowait(json!(1)).unwrap();
        client.close().unwrap();
        drop(server);
    }
    eventually("all threads have ended", || threads_named("ws-") == 0);
}
