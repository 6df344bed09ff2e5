//! This crate's side of the interoperation tests. `tests/interop/run` runs it against programs that
//! use other libraries, and `tests/interop/suite/main.py` describes what both sides do.
//!
//! ```text
//! interop server --listen HOST:PORT | /PATH [--tls CERT KEY] [--deflate PARAMS]
//! interop client SCENARIO URL [--ca FILE] [--deflate PARAMS]
//! ```
//!
//! The server prints `listening on URL` and runs until it is killed. The client prints `ok`, or one
//! line with what was wrong and exits with status 1.

mod client;
mod foxglove;
mod libwebsockets;
mod networktables;
mod relay;
mod ros;
mod server;

use std::io::{self, Write};
use std::process::ExitCode;
use std::{env, fs};

use rtcbot_websocket::{Options, Server};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The longest message of a scenario is half of that.
const MAX_MESSAGE: usize = 32 << 20;

const USAGE: &str = "usage: interop server --listen HOST:PORT|/PATH [--tls CERT KEY] \
                     [--deflate PARAMS]\n       \
                     interop client SCENARIO URL [--ca FILE] [--deflate PARAMS]";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match &arguments[..] {
        ["server", "--listen", address, settings @ ..] => serve(address, settings),
        ["client", scenario, url, settings @ ..] => connect(scenario, url, settings),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{}", error.to_string().replace('\n', "; "));
            ExitCode::FAILURE
        }
    }
}

/// Prints a line for the program that started this one.
fn print(line: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()
}

/// The settings of both sides: texts arrive as they are, and long messages are allowed.
fn options() -> Options {
    Options::new()
        .json(false)
        .max_message_size(MAX_MESSAGE)
        .send_queue(2 * MAX_MESSAGE)
}

fn serve(address: &str, mut settings: &[&str]) -> Result<()> {
    let mut server = match address.contains('/') {
        true => Server::bind_unix(address)?,
        false => Server::bind(address)?,
    };
    let mut options = options();
    loop {
        settings = match settings {
            [] => break,
            ["--tls", cert, key, rest @ ..] => {
                server = with_tls(server, cert, key)?;
                rest
            }
            ["--deflate", names, rest @ ..] => {
                options = compress(options, names)?;
                rest
            }
            _ => return Err(USAGE.into()),
        };
    }
    print(&format!("listening on {}", server.url()))?;
    server.serve(move |request| server::answer(request, options.clone()));
    Ok(())
}

fn connect(scenario: &str, url: &str, mut settings: &[&str]) -> Result<()> {
    let mut options = options();
    loop {
        settings = match settings {
            [] => break,
            ["--ca", file, rest @ ..] => {
                options = trust(options, file)?;
                rest
            }
            ["--deflate", names, rest @ ..] => {
                options = compress(options, names)?;
                client::is_compressed(url, &options, names)?;
                rest
            }
            _ => return Err(USAGE.into()),
        };
    }
    client::run(scenario, url, options)?;
    Ok(print("ok")?)
}

fn read(file: &str) -> Result<Vec<u8>> {
    fs::read(file).map_err(|error| format!("{file}: {error}").into())
}

/// Turns compression on, with the parameters that suite/main.py describes.
#[cfg(feature = "deflate")]
fn compress(options: Options, names: &str) -> Result<Options> {
    // Short messages are compressed, too.
    let mut deflate = rtcbot_websocket::Deflate::new().threshold(0);
    for name in names.split(',') {
        deflate = match name {
            "default" => deflate,
            "no-context" => deflate
                .client_no_context_takeover(true)
                .server_no_context_takeover(true),
            "window-9" => deflate.client_max_window_bits(9).server_max_window_bits(9),
            _ => return Err(format!("there is no parameter {name}").into()),
        };
    }
    Ok(options.deflate(deflate))
}

#[cfg(not(feature = "deflate"))]
fn compress(_: Options, _: &str) -> Result<Options> {
    Err("this program was built without the feature deflate".into())
}

#[cfg(feature = "native-tls")]
fn with_tls(server: Server, cert: &str, key: &str) -> Result<Server> {
    use rtcbot_websocket::native_tls::Identity;

    let identity = Identity::from_pkcs8(&read(cert)?, &read(key)?)?;
    Ok(server.tls(identity)?)
}

#[cfg(feature = "native-tls")]
fn trust(options: Options, file: &str) -> Result<Options> {
    Ok(options.root_certificate_pem(read(file)?))
}

#[cfg(not(feature = "native-tls"))]
fn with_tls(_: Server, cert: &str, key: &str) -> Result<Server> {
    read(cert)?;
    read(key)?;
    Err("this program was built without the feature native-tls".into())
}

#[cfg(not(feature = "native-tls"))]
fn trust(_: Options, file: &str) -> Result<Options> {
    read(file)?;
    Err("this program was built without the feature native-tls".into())
}
