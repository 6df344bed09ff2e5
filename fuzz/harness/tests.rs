//! The fuzz targets as property tests.

use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestError, TestRunner};

use crate::fuzzing::testkit::decisions::Decisions;

/// How many inputs each target gets where no time is given.
const CASES: u32 = 300;

#[test]
fn session_holds() {
    hold("session", super::session);
}

#[test]
fn frames_from_a_client_hold() {
    hold("frames_from_a_client", super::frames_from_a_client);
}

#[test]
fn frames_from_a_server_hold() {
    hold("frames_from_a_server", super::frames_from_a_server);
}

#[cfg(feature = "deflate")]
#[test]
fn deflate_holds() {
    hold("deflate", super::deflate);
}

#[test]
fn json_holds() {
    hold("json", super::json);
}

#[test]
fn request_head_holds() {
    hold("request_head", super::request_head);
}

#[test]
fn response_head_holds() {
    hold("response_head", super::response_head);
}

#[test]
fn settings_hold() {
    hold("settings", super::settings);
}

/// Runs a target on its seeds, and then on random changes of them and on random bytes.
#[track_caller]
fn hold(name: &str, target: fn(&[u8])) {
    let seeds = seeds(name);
    seeds.iter().for_each(|seed| target(seed));
    let time = std::env::var("RTCBOT_FUZZ_SECONDS").ok();
    let time =
        time.map(|seconds| Duration::from_secs(seconds.parse().expect("a number of seconds")));
    let start = Instant::now();
    loop {
        let mut runner = TestRunner::new(Config {
            cases: CASES,
            max_shrink_iters: 500,
            max_shrink_time: 20_000,
            failure_persistence: None,
            ..Config::default()
        });
        let result = runner.run(&inputs(seeds.clone()), |input| {
            target(&input);
            Ok(())
        });
        if let Err(TestError::Fail(why, input)) = result {
            panic!("{name}(b\"{}\"): {why}", input.escape_ascii());
        }
        if time.is_none_or(|time| start.elapsed() >= time) {
            return;
        }
    }
}

fn inputs(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let noise = prop::collection::vec(any::<u8>(), 0..400);
    let edits = prop::collection::vec(any::<u8>(), 0..16);
    let mutants = (select(seeds), edits).prop_map(|(mut seed, edits)| {
        Decisions::from_bytes(&edits).edit(&mut seed);
        seed
    });
    prop_oneof![noise, mutants]
}

/// Returns the seeds in the repository, and the empty one.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/seeds")
        .join(name);
    let mut seeds = vec![Vec::new()];
    for file in std::fs::read_dir(folder).expect("a folder of seeds") {
        let file = file.expect("a seed");
        seeds.push(std::fs::read(file.path()).expect("a seed"));
    }
    seeds
}
