//! A logger that keeps its records, for tests that run alone in their process.
#![allow(dead_code)] // Each test file uses its own part.

use std::sync::Mutex;

use log::{LevelFilter, Log, Metadata, Record};

struct Keeps;

static RECORDS: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl Log for Keeps {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        RECORDS.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

/// Keeps the records up to this level from now on.
pub fn keep(level: LevelFilter) {
    log::set_logger(&Keeps).unwrap();
    log::set_max_level(level);
}

/// Returns how many records contain `text`.
pub fn count(text: &str) -> usize {
    let records = RECORDS.lock().unwrap();
    records
        .iter()
        .filter(|record| record.contains(text))
        .count()
}

/// Returns all records, one after the other.
pub fn all() -> String {
    RECORDS.lock().unwrap().join("\n")
}

pub fn clear() {
    RECORDS.lock().unwrap().clear();
}
