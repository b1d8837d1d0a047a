//! `docs/faults.md` names tests that exist.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A row without a test says so.
const NOT_YET: &str = "Not tested yet";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The rows of all tables, cell by cell, without heads and rules.
fn rows(page: &str) -> Vec<Vec<&str>> {
    let rows = page.lines().filter(|line| line.starts_with('|'));
    let rows = rows.filter(|line| !line.starts_with("|---") && !line.starts_with("| fault |"));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

/// The tests that a cell names: paths in backquotes.
fn tests(cell: &str) -> impl Iterator<Item = &str> {
    let quoted = cell.split('`').skip(1).step_by(2);
    quoted.filter(|name| name.contains("::"))
}

/// The files in which a test of this path may be.
fn files(modules: &[&str]) -> Vec<PathBuf> {
    // The tests of a module are a part of its file, or a file beside it.
    let inner = modules.strip_suffix(&["tests"]).unwrap_or(modules);
    let mut files = Vec::new();
    if let [module] = modules {
        files.push(root().join(format!("tests/integration/{module}.rs")));
    }
    for path in [inner.join("/"), modules.join("/")] {
        files.push(root().join(format!("src/{path}.rs")));
        files.push(root().join(format!("src/{path}/mod.rs")));
    }
    files
}

fn exists(test: &str) -> bool {
    let mut modules: Vec<&str> = test.split("::").collect();
    let function = modules.pop().unwrap_or_default();
    let function = format!("fn {function}(");
    files(&modules)
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .any(|source| source.contains(&function))
}

#[test]
fn every_fault_has_a_test_that_exists_or_says_why_not() -> Result<()> {
    let page = fs::read_to_string(root().join("docs/faults.md")).context("read docs/faults.md")?;
    let rows = rows(&page);
    assert!(rows.len() > 40, "only {} faults", rows.len());
    for row in rows {
        let [fault, happens, named] = row[..] else {
            panic!("not three cells: {row:?}");
        };
        assert!(!happens.is_empty(), "{fault}: what happens?");
        let named_tests: Vec<_> = tests(named).collect();
        let missing: Vec<_> = named_tests.iter().filter(|test| !exists(test)).collect();
        assert!(missing.is_empty(), "{fault}: no such tests: {missing:?}");
        let not_yet = named.contains(NOT_YET);
        assert!(!named_tests.is_empty() || not_yet, "{fault}: no test");
    }
    Ok(())
}

#[test]
fn a_test_is_found_where_it_is_and_nowhere_else() {
    assert!(exists(
        "faults_doc::a_test_is_found_where_it_is_and_nowhere_else"
    ));
    assert!(exists(
        "source::follower::tests::a_failed_group_pauses_ever_longer_within_bounds"
    ));
    assert!(!exists("faults_doc::a_test_that_was_renamed"));
    assert!(!exists(
        "crash::a_test_is_found_where_it_is_and_nowhere_else"
    ));
    assert_eq!(
        tests("`a::b`, `c` and `d::e`").collect::<Vec<_>>(),
        ["a::b", "d::e"]
    );
}
