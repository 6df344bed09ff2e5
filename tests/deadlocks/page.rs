//! `docs/deadlocks.md` names the tests of this folder, and others. It is checked against the files.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const FOLDER: &str = "tests/deadlocks";

/// The names of the tests in a file of the repository.
fn tests_in(file: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(Path::new(ROOT).join(file)).unwrap_or_default();
    let after_attributes = text.split("#[test]").skip(1);
    let names = after_attributes.filter_map(|test| {
        let (_, function) = test.split_once("fn ")?;
        Some(function.split_once('(')?.0.to_owned())
    });
    names.collect()
}

/// The files and tests in the last column of the page's tables. A name there is `module::test`, of
/// this folder, or `path.rs::test`.
fn named_tests() -> BTreeSet<(String, String)> {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/deadlocks.md")).unwrap();
    let last_columns = page
        .lines()
        .filter_map(|row| row.strip_suffix('|')?.rsplit('|').next());
    let quoted = last_columns.flat_map(|column| column.split('`').skip(1).step_by(2));
    let tests = quoted.filter_map(|name| {
        let (file, test) = name.rsplit_once("::")?;
        let file = match file.ends_with(".rs") {
            true => file.to_owned(),
            false => format!("{FOLDER}/{file}.rs"),
        };
        Some((file, test.to_owned()))
    });
    tests.collect()
}

#[test]
fn the_page_of_reports_names_existing_tests_and_all_of_this_folder() {
    let named = named_tests();
    assert!(named.len() > 20, "{named:?}");
    for (file, test) in &named {
        assert!(
            tests_in(file).contains(test),
            "docs/deadlocks.md names {test}, which is not in {file}"
        );
    }
    for entry in fs::read_dir(Path::new(ROOT).join(FOLDER)).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name == "page.rs" {
            continue;
        }
        let file = format!("{FOLDER}/{name}");
        for test in tests_in(&file) {
            assert!(
                named.contains(&(file.clone(), test.clone())),
                "docs/deadlocks.md does not name {test}, which is in {file}"
            );
        }
    }
}
