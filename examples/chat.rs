//! A chat with rooms: the server, and a client for the terminal.
//!
//! ```text
//! cargo run --example chat serve ADDRESS    a server, for example on 0.0.0.0:9001
//! cargo run --example chat URL ROOM NAME    a client; Ctrl-D ends it
//! cargo run --example chat                  a server and three clients, which end by themselves
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{env, io, thread};

use rtcbot_websocket::{Options, Queue, Request, Server, Websocket, broadcast};
use url::Url;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => all_in_one_process(),
        ["serve", address] => {
            serve(Server::bind(address)?);
            Ok(())
        }
        [url, room, name] => terminal(&join(url, room, name)?),
        _ => Err("usage: chat [serve ADDRESS | URL ROOM NAME]".into()),
    }
}

/// The members of each room. A room exists as long as it has members.
#[derive(Default)]
struct Rooms(Mutex<HashMap<String, Vec<Websocket>>>);

impl Rooms {
    fn enter(&self, room: &str, member: &Websocket) {
        let mut rooms = self.0.lock().unwrap();
        rooms
            .entry(room.to_owned())
            .or_default()
            .push(member.clone());
    }

    fn leave(&self, room: &str, member: &Websocket) {
        let mut rooms = self.0.lock().unwrap();
        if let Some(members) = rooms.get_mut(room) {
            members.retain(|other| other != member);
            if members.is_empty() {
                rooms.remove(room);
            }
        }
    }

    /// Sends a line to all members of a room, and disconnects those that read too slowly.
    fn say(&self, room: &str, line: String) {
        let rooms = self.0.lock().unwrap();
        let members = rooms.get(room).map_or(&[][..], Vec::as_slice);
        // This never waits. It is done under the lock, so that all members receive the lines in
        // the same order.
        let slow = broadcast(members, line);
        drop(rooms);
        for member in slow {
            println!("{} reads too slowly", member.name());
            // Does not wait either. The member's loop in `chat` ends when it is disconnected.
            let _ = member.close_nowait(4000, "you read too slowly");
        }
    }
}

/// Returns when the server is shut down.
fn serve(server: Server) {
    println!("listening on {}", server.url());
    let rooms = Arc::new(Rooms::default());
    // Calls the function on a thread of its own for each request.
    server
        .max_connections(1000)
        .serve(move |request| chat(&rooms, request));
}

/// Serves one member. The path is the room.
fn chat(rooms: &Rooms, request: Request) {
    let room = request.path().to_owned();
    let name = request.query_param("name").unwrap_or_default().into_owned();
    if name.is_empty() || name.len() > 30 || room.len() > 90 {
        let _ = request.respond(400, "join with /ROOM?name=NAME; NAME has at most 30 bytes");
        return;
    }
    let ws = Options::new()
        .json(false) // text stays text
        // Nobody is trusted: the longest line, and what is queued for and from each member.
        .max_message_size(4 << 10)
        .receive_queue(Queue::Block(16))
        .send_queue(256 << 10)
        .accept(request);
    // Other HTTP requests, and pages of other sites, have been rejected.
    if ws.wait_ready().is_err() {
        return;
    }
    rooms.enter(&room, &ws);
    rooms.say(&room, format!("{name} has joined"));
    for line in &ws {
        if let Some(line) = line.as_str() {
            rooms.say(&room, format!("{name}: {line}"));
        }
    }
    rooms.leave(&room, &ws);
    rooms.say(&room, format!("{name} has left"));
}

fn join(url: &str, room: &str, name: &str) -> Result<Websocket> {
    let mut url = Url::parse(url)?;
    // These encode spaces and other characters.
    url.set_path(room);
    url.query_pairs_mut().append_pair("name", name);
    let ws = Options::new().json(false).connect(url.as_str())?;
    ws.wait_ready()?; // fails if the server rejects the name
    Ok(ws)
}

/// Sends the lines of standard input, and prints what is said in the room.
fn terminal(ws: &Websocket) -> Result<()> {
    let sender = ws.clone();
    // Reading from a terminal cannot be interrupted. So a thread does it that does not keep the
    // program running when the server closes.
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(io::Result::ok) {
            if sender.put(line).is_err() {
                return;
            }
        }
        let _ = sender.close();
    });
    for line in ws {
        // Others must not control this terminal.
        println!("{}", line.to_string().replace(char::is_control, ""));
    }
    Ok(ws.wait_closed()?)
}

fn all_in_one_process() -> Result<()> {
    let server = Server::bind("127.0.0.1:0")?; // 0 is any free port
    let (url, handle) = (server.url().to_owned(), server.handle());
    let serving = thread::spawn(|| serve(server));

    let ann = join(&url, "kitchen", "ann")?;
    hear(&ann, "ann has joined")?;
    let ben = join(&url, "kitchen", "ben")?;
    hear(&ann, "ben has joined")?;
    let eve = join(&url, "kitchen", "eve")?;
    hear(&ann, "eve has joined")?;
    for (member, line) in [(&ann, "Is there coffee?"), (&ben, "Tea."), (&eve, "Both.")] {
        member.put(line)?;
        hear(&ann, line)?;
    }
    ben.close()?;
    hear(&ann, "ben has left")?;
    eve.close()?;
    hear(&ann, "eve has left")?;
    ann.close()?;

    handle.shutdown(Duration::from_secs(5))?;
    serving.join().map_err(|_| "the server panicked")?;
    Ok(())
}

/// Prints what `ann` hears, up to a line with this end.
fn hear(ann: &Websocket, end: &str) -> Result<()> {
    loop {
        let line = ann.get()?.to_string();
        println!("ann hears {line:?}");
        if line.ends_with(end) {
            return Ok(());
        }
    }
}
