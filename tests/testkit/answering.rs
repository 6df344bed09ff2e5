//! A server that sends prepared responses, whatever it is asked.
#![allow(dead_code)] // Each test file uses its own part.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::thread::{self, JoinHandle};

use super::script::with_accept_key;
use super::{DEADLINE, own_address, read_head};

/// What the server does after a response.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Ends the stream.
    End,
    /// Waits until the client ends the stream.
    Stay,
    /// Drops the connection.
    Leave,
}

/// Answers each client with the next of these responses; [`ACCEPT`](super::script::ACCEPT) in them
/// becomes the accept key that fits. Returns the server's URL and the requests.
pub fn answering(
    responses: impl IntoIterator<Item = impl AsRef<[u8]>>,
    after: After,
) -> (String, JoinHandle<Vec<String>>) {
    let responses: Vec<Vec<u8>> = responses
        .into_iter()
        .map(|response| response.as_ref().to_vec())
        .collect();
    let listener = TcpListener::bind((own_address(), 0)).unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let serving = thread::spawn(move || {
        let mut requests = Vec::new();
        for mut response in responses {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            let request = read_head(&mut stream);
            with_accept_key(&mut response, request.as_bytes());
            stream.write_all(&response).unwrap();
            requests.push(request);
            if after == After::End {
                let _ = stream.shutdown(Shutdown::Write);
            }
            if after != After::Leave {
                let _ = stream.read_to_end(&mut Vec::new());
            }
        }
        requests
    });
    (url, serving)
}
