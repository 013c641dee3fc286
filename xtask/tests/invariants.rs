//! `docs/invariants.md` names tests that exist, for every invariant of the design.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

const INVARIANTS: usize = 15;
/// Where tests are.
const CRATES: [&str; 8] = [
    "api",
    "e2e",
    "gateway",
    "load-tests",
    "shard-coordinator",
    "shared",
    "store",
    "xtask",
];

#[test]
fn every_invariant_has_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut functions = HashSet::new();
    for name in CRATES {
        functions_in(&root.join(name), &mut functions).unwrap();
    }
    let page = fs::read_to_string(root.join("docs/invariants.md")).unwrap();
    for number in 1..=INVARIANTS {
        let start = format!("| I{number} |");
        let row = page.lines().find(|line| line.starts_with(&start));
        let row = row.unwrap_or_else(|| panic!("I{number} has no row"));
        let quoted = row.split('`').skip(1).step_by(2);
        let tests: Vec<&str> = quoted.filter(|word| word.contains('_')).collect();
        assert!(!tests.is_empty(), "I{number} has no test");
        for test in tests {
            assert!(
                functions.contains(test),
                "I{number}: no test is called {test}"
            );
        }
    }
}

fn functions_in(folder: &Path, functions: &mut HashSet<String>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path: PathBuf = entry?.path();
        let is_rust = path.extension().is_some_and(|extension| extension == "rs");
        if path.is_dir() && !path.ends_with("target") {
            functions_in(&path, functions)?;
        } else if is_rust {
            let text = fs::read_to_string(&path)?;
            let after = text.split("fn ").skip(1);
            let names = after.filter_map(|rest| rest.split(['(', '<']).next());
            functions.extend(names.map(str::to_owned));
        }
    }
    Ok(())
}
