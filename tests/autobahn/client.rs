//! A client for the Autobahn test suite, which `tests/autobahn/run` starts.
//!
//! Usage: `autobahn_client URL AGENT [--deflate] [--ca FILE]`. The URL is that of a `wstest -m
//! fuzzingserver`, and `AGENT` is the name in its report. With `--deflate`, messages are compressed
//! if the server wants it. `FILE` is a PEM file with a certificate that the server may have.
//!
//! One case runs at a time. The server has one thread, and its time limits also pass while that
//! works for another case.
//!
//! The client sends every message back unchanged. The server decides whether a case has passed:
//! this program only reports cases that did not begin, or did not end in time.

use std::env;
use std::process::ExitCode;
use std::time::Duration;

use rtcbot_websocket::{Error, Options, Websocket};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const USAGE: &str = "usage: autobahn_client URL AGENT [--deflate] [--ca FILE]";

/// The server itself ends its slowest cases after 100 seconds.
const CASE_DEADLINE: Duration = Duration::from_secs(150);

/// The longest messages of the suite have 16 MiB.
const LONGEST_MESSAGE: usize = 16 << 20;

struct Settings {
    url: String,
    agent: String,
    deflate: bool,
    ca: Option<Vec<u8>>,
}

fn main() -> ExitCode {
    match parse(env::args().skip(1)).and_then(|settings| run(&settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("autobahn_client: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Settings> {
    let mut settings = Settings {
        url: arguments.next().ok_or(USAGE)?,
        agent: arguments.next().ok_or(USAGE)?,
        deflate: false,
        ca: None,
    };
    while let Some(option) = arguments.next() {
        match option.as_str() {
            "--deflate" => settings.deflate = true,
            "--ca" => settings.ca = Some(std::fs::read(arguments.next().ok_or(USAGE)?)?),
            _ => return Err(USAGE.into()),
        }
    }
    Ok(settings)
}

fn run(settings: &Settings) -> Result<()> {
    let count = settings.case_count()?;
    let mut failed = 0;
    for case in 1..=count {
        if let Err(error) = settings.run_case(case) {
            eprintln!("autobahn_client: case {case} of {count}: {error}");
            failed += 1;
        }
    }
    settings.update_reports()?;
    match failed {
        0 => Ok(()),
        _ => Err(format!("{failed} cases did not begin or did not end").into()),
    }
}

impl Settings {
    fn connect(&self, options: Options, path_and_query: &str) -> Result<Websocket> {
        let options = options.connect_timeout(CASE_DEADLINE);
        let options = match &self.ca {
            Some(pem) => trust(options, pem)?,
            None => options,
        };
        let options = match self.deflate {
            true => compress(options)?,
            false => options,
        };
        let ws = options.connect(format!("{}{path_and_query}", self.url))?;
        Ok(ws)
    }

    fn case_count(&self) -> Result<u32> {
        let ws = self.connect(Options::new().json(false), "/getCaseCount")?;
        let count = ws.get_timeout(CASE_DEADLINE)?;
        let text = count.as_str().ok_or("the number of cases is not text")?;
        Ok(text.parse()?)
    }

    /// Sends back all messages of a case until the server ends the connection.
    fn run_case(&self, case: u32) -> Result<()> {
        let options = Options::new()
            .json(false)
            .max_message_size(LONGEST_MESSAGE)
            // The suite expects certain frames, and no ping is among them.
            .ping_interval(None)
            // Reading starts after `subscribe_to`, so that no message is received before it.
            .paused(true);
        let path = format!("/runCase?case={case}&agent={}", self.agent);
        let ws = self.connect(options, &path)?;
        ws.subscribe_to(ws.clone());
        ws.resume();
        ws.wait_ready_timeout(CASE_DEADLINE)?;
        match ws.wait_closed_timeout(CASE_DEADLINE) {
            Err(Error::Timeout) => {
                ws.abort();
                Err("it did not end in time".into())
            }
            // Most cases break the protocol, so most connections end with an error.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Makes the server write its report.
    fn update_reports(&self) -> Result<()> {
        let path = format!("/updateReports?agent={}", self.agent);
        // The server answers no ping while it writes the report.
        let ws = self.connect(Options::new().ping_interval(None), &path)?;
        // The server closes the connection once it has written the report.
        ws.wait_closed_timeout(CASE_DEADLINE)?;
        Ok(())
    }
}

#[cfg(feature = "deflate")]
fn compress(options: Options) -> Result<Options> {
    Ok(options.deflate(rtcbot_websocket::Deflate::new()))
}

#[cfg(not(feature = "deflate"))]
fn compress(_: Options) -> Result<Options> {
    Err("--deflate: this program was built without the feature deflate".into())
}

#[cfg(feature = "native-tls")]
fn trust(options: Options, pem: &[u8]) -> Result<Options> {
    Ok(options.root_certificate_pem(pem))
}

#[cfg(not(feature = "native-tls"))]
fn trust(_: Options, _: &[u8]) -> Result<Options> {
    Err("--ca: this program was built without the feature native-tls".into())
}
