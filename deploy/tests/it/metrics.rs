//! The reference of metrics is what the programs register.

use std::{collections::BTreeSet, fs, path::Path};

use deploy::{
    checkout,
    metrics::{self, programs},
};
use regex::Regex;

use crate::{
    monitoring::{NAME, registered},
    read,
};

/// Where metrics are registered.
const REGISTRATIONS: [&str; 4] = [
    "api/src/telemetry.rs",
    "gateway/src/node/metrics.rs",
    "gateway/src/telemetry.rs",
    "shard-coordinator/src/telemetry.rs",
];

#[test]
fn the_page_of_metrics_is_what_the_programs_say() {
    assert!(
        read(metrics::FILE) == metrics::page().unwrap(),
        "{} is not up to date: cargo run -p deploy",
        metrics::FILE
    );
}

#[test]
fn every_metric_says_what_is_counted_and_what_is_normal() {
    for metric in programs().unwrap().iter().flat_map(|it| &it.metrics) {
        let said = metric.said();
        let (counted, normal) = said.unwrap_or_else(|| panic!("{metric:?} lacks `Normal:`"));
        for sentence in [counted, normal] {
            assert!(sentence.len() > 1 && sentence.ends_with('.'), "{metric:?}");
        }
        let is_counter = metric.kind == "counter";
        assert_eq!(metric.name.ends_with("_total"), is_counter, "{metric:?}");
    }
}

#[test]
fn every_label_is_explained_with_the_values_that_are_known() {
    for program in programs().unwrap() {
        let labels = program.metrics.iter().flat_map(|metric| &metric.labels);
        let labels: BTreeSet<&str> = labels.map(String::as_str).collect();
        let explained: BTreeSet<&str> = program.labels.iter().map(|&(label, _)| label).collect();
        assert_eq!(labels, explained, "{}", program.name);
        for (label, value) in program.metrics.iter().flat_map(|metric| &metric.values) {
            let (_, text) = program.labels.iter().find(|(of, _)| of == label).unwrap();
            assert!(text.contains(&format!("`{value}`")), "{label}: {value}");
        }
    }
}

/// Else a metric would be shown that is not on the page.
#[test]
fn metrics_are_registered_only_where_they_are_listed() {
    let mut found = BTreeSet::new();
    for folder in ["api", "gateway", "shard-coordinator", "store", "redis"] {
        registrations(&checkout().join(folder).join("src"), &mut found);
    }
    assert_eq!(found, BTreeSet::from(REGISTRATIONS.map(str::to_owned)));
}

/// Else a metric would be made that nobody can see.
#[test]
fn every_metric_that_is_made_is_listed() {
    let name = Regex::new(&format!("\"({NAME})\"")).unwrap();
    let listed = registered();
    for file in REGISTRATIONS {
        let source = read(file);
        let (source, _) = source
            .split_once("#[cfg(test)]")
            .unwrap_or((source.as_str(), ""));
        for found in name.captures_iter(source) {
            assert!(listed.contains(&found[1]), "{file}: {}", &found[1]);
        }
    }
}

/// Files below a folder that put anything into a registry.
fn registrations(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            registrations(&path, found);
            continue;
        }
        if path.extension().is_none_or(|end| end != "rs") {
            continue;
        }
        let source = fs::read_to_string(&path).expect("a source file");
        if source.contains("registry.register(") {
            let file = path.strip_prefix(checkout()).expect("below the checkout");
            found.insert(file.to_str().expect("a plain path").to_owned());
        }
    }
}
