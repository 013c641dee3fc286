//! The reference of settings is what the programs read.

use std::collections::BTreeSet;

use deploy::settings::{self, programs};
use regex::Regex;

use crate::read;

#[test]
fn the_page_of_settings_is_what_the_programs_say() {
    assert!(
        read(settings::FILE) == settings::page(),
        "{} is not up to date: cargo run -p deploy",
        settings::FILE
    );
}

#[test]
fn no_secret_that_is_refused_is_printed() {
    for program in programs() {
        for text in program.refusals_of_secrets("hunter2") {
            assert!(!text.contains("hunter2"), "{}: {text}", program.name);
        }
    }
}

#[test]
fn the_example_says_which_settings_are_everybodys() {
    let example = read(".env.example");
    let (_, rest) = example.split_once("# ---- all three ").unwrap();
    let (part, _) = rest.split_once("# ---- ").unwrap();
    let line = Regex::new(r"(?m)^#?([A-Z][A-Z0-9_]*)=").unwrap();
    let listed: BTreeSet<String> = line
        .captures_iter(part)
        .map(|found| found[1].to_owned())
        .collect();
    let everybodys = programs()
        .iter()
        .map(|program| program.variables())
        .reduce(|one, other| &one & &other);
    assert_eq!(Some(listed), everybodys);
}

#[test]
fn the_example_has_every_setting_and_no_other() {
    let line = Regex::new(r"(?m)^#?([A-Z][A-Z0-9_]*)=").unwrap();
    let example = read(".env.example");
    let listed: BTreeSet<String> = line
        .captures_iter(&example)
        .map(|found| found[1].to_owned())
        .collect();
    let known: BTreeSet<String> = programs()
        .iter()
        .flat_map(|program| program.variables())
        .collect();
    assert_eq!(listed, known);
}
