//! A client for the Autobahn test suite, which `tests/autobahn/run` starts.
//!
//! Usage: `autobahn_client URL AGENT [--ca FILE] [--jobs N]`. The URL is that of a `wstest -m
//! fuzzingserver`, and `AGENT` is the name in its report. `FILE` is a PEM file with a certificate
//! that the server may have. `N` cases run at a time, by default one.
//!
//! The client sends every message back unchanged. The server decides whether a case has passed:
//! this program only reports cases that did not begin, or did not end in time.

use std::env;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rtcbot_websocket::{Error, Options, Websocket};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const USAGE: &str = "usage: autobahn_client URL AGENT [--ca FILE] [--jobs N]";

/// The server itself ends its slowest cases after 100 seconds.
const CASE_DEADLINE: Duration = Duration::from_secs(150);

/// The longest messages of the suite have 16 MiB.
const LONGEST_MESSAGE: usize = 16 << 20;

struct Settings {
    url: String,
    agent: String,
    ca: Option<Vec<u8>>,
    jobs: usize,
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
        ca: None,
        jobs: 1,
    };
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or(USAGE)?;
        match option.as_str() {
            "--ca" => settings.ca = Some(std::fs::read(value)?),
            "--jobs" => settings.jobs = value.parse()?,
            _ => return Err(USAGE.into()),
        }
    }
    Ok(settings)
}

fn run(settings: &Settings) -> Result<()> {
    let count = settings.case_count()?;
    let next = AtomicUsize::new(1);
    let worker = || -> usize {
        let mut failed = 0;
        loop {
            let case = next.fetch_add(1, Ordering::Relaxed);
            if case > count {
                return failed;
            }
            if let Err(error) = settings.run_case(case) {
                eprintln!("autobahn_client: case {case} of {count}: {error}");
                failed += 1;
            }
        }
    };
    let failed: usize = thread::scope(|scope| {
        let workers: Vec<_> = (0..settings.jobs).map(|_| scope.spawn(worker)).collect();
        let results = workers.into_iter().map(|worker| worker.join());
        // A worker that has panicked has run less than its part.
        results.map(|failed| failed.unwrap_or(1)).sum()
    });
    settings.update_reports()?;
    match failed {
        0 => Ok(()),
        _ => Err(format!("{failed} cases did not begin or did not end").into()),
    }
}

impl Settings {
    fn connect(&self, options: Options, path_and_query: &str) -> Result<Websocket> {
        let options = match &self.ca {
            Some(pem) => trust(options, pem)?,
            None => options,
        };
        let ws = options.connect(&format!("{}{path_and_query}", self.url))?;
        Ok(ws)
    }

    fn case_count(&self) -> Result<usize> {
        let ws = self.connect(Options::new().json(false), "/getCaseCount")?;
        let count = ws.get_timeout(CASE_DEADLINE)?;
        let text = count.as_str().ok_or("the number of cases is not text")?;
        Ok(text.parse()?)
    }

    /// Sends back all messages of a case until the server ends the connection.
    fn run_case(&self, case: usize) -> Result<()> {
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

#[cfg(feature = "native-tls")]
fn trust(options: Options, pem: &[u8]) -> Result<Options> {
    Ok(options.root_certificate_pem(pem))
}

#[cfg(not(feature = "native-tls"))]
fn trust(_: Options, _: &[u8]) -> Result<Options> {
    Err("--ca: this program was built without the feature native-tls".into())
}
