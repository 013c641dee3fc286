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
