//! Alerts and dashboard: they ask for metrics that exist, and each alert is explained.

use std::{collections::BTreeSet, fs};

use deploy::{
    checkout,
    metrics::{self, DASHBOARD, RULES},
};
use regex::Regex;
use serde_json::{Value, json};

use crate::{documents, read, strings, success, tool};

const OPERATORS_RULES: &str = "deploy/kubernetes/components/servicemonitor/rules.yaml";
/// What our metrics' names begin with.
pub(crate) const NAME: &str = "(?:gateway|node|coordinator|guildhall_api)_[a-z0-9_]+";

fn rules() -> Value {
    documents(&read(RULES)).remove(0)
}

fn dashboard() -> Value {
    serde_json::from_str(&read(DASHBOARD)).expect("a dashboard is JSON")
}

/// Names of all metrics.
pub(crate) fn registered() -> BTreeSet<String> {
    let programs = metrics::programs().expect("metrics of all programs");
    let metrics = programs.into_iter().flat_map(|program| program.metrics);
    metrics.map(|metric| metric.name).collect()
}

fn expressions(document: &Value) -> Vec<&str> {
    let mut expressions = Vec::new();
    strings(document, "expr", &mut expressions);
    assert!(!expressions.is_empty());
    expressions
}

fn names(text: &str) -> BTreeSet<String> {
    let name = Regex::new(&format!(r"\b{NAME}\b")).expect("a pattern");
    let names = name.find_iter(text);
    names.map(|found| found.as_str().to_owned()).collect()
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_exist() {
    let registered = registered();
    assert!(registered.len() > 40, "{registered:?}");
    let (rules, dashboard) = (rules(), dashboard());
    let asked = [expressions(&rules), expressions(&dashboard)].concat();
    // The manual names metrics, too.
    let texts = [asked.join("\n"), read("docs/operations.md")];
    for name in texts.iter().flat_map(|text| names(text)) {
        let series = ["_bucket", "_sum", "_count"];
        let histogram = series.iter().find_map(|end| name.strip_suffix(end));
        assert!(
            registered.contains(&name) || histogram.is_some_and(|of| registered.contains(of)),
            "nothing counts {name}"
        );
    }
}

#[test]
fn alerts_and_dashboard_ask_for_labels_that_exist() {
    let programs = metrics::programs().expect("metrics of all programs");
    let metrics = programs.iter().flat_map(|program| &program.metrics);
    let labels = metrics.flat_map(|metric| &metric.labels);
    let mut known: BTreeSet<&str> = labels.map(String::as_str).collect();
    assert!(known.contains("outcome"), "{known:?}");
    known.extend(["instance", "job", "le"]); // Prometheus' own
    let matched = Regex::new(r#"([a-z]+)(=~|!=|!~|=)""#).unwrap();
    let grouped = Regex::new(r"by \(([a-z, ]+)\)").unwrap();
    let (rules, dashboard) = (rules(), dashboard());
    for text in [expressions(&rules), expressions(&dashboard)].concat() {
        for found in matched.captures_iter(text) {
            let (label, operator) = (&found[1], &found[2]);
            assert!(known.contains(label), "nothing has {label}: {text}");
            // Prometheus 3 makes "500.0" of a bucket's "500"; versions before it do not.
            assert!(label != "le" || operator == "=~", "{text}");
        }
        for found in grouped.captures_iter(text) {
            for label in found[1].split(", ") {
                assert!(known.contains(label), "nothing has {label}: {text}");
            }
        }
    }
}

#[test]
fn the_prometheus_operator_gets_the_same_alerts() {
    let operators = documents(&read(OPERATORS_RULES)).remove(0);
    assert_eq!(operators["spec"]["groups"], rules()["groups"]);
}

#[test]
fn every_alert_has_a_test_and_a_section_in_the_manual() {
    let tests = documents(&read("deploy/prometheus/guildhall.test.yml")).remove(0);
    let mut tested = Vec::new();
    strings(&tests, "alertname", &mut tested);
    let manual = read("docs/operations.md");
    let rules = rules();
    let mut alerts = Vec::new();
    strings(&rules, "alert", &mut alerts);
    for &alert in &alerts {
        assert!(tested.contains(&alert), "{alert} has no test");
        let section = format!("\n### {alert}\n");
        assert!(manual.contains(&section), "{alert} is not explained");
    }
    let explained = manual.matches("\n### Guildhall").count();
    assert_eq!(explained, alerts.len(), "the manual explains other alerts");
}

/// What operators have to see of a cluster, whoever rearranges the panels.
#[test]
fn the_dashboard_shows_delivery_stores_moves_load_and_ends() {
    let dashboard = dashboard();
    let shown = names(&expressions(&dashboard).join("\n"));
    for name in [
        "gateway_append_to_socket_ms_bucket",
        "node_feed_lag_ms_bucket",
        "node_gap_fetches_total",
        "node_map_read_timestamp_seconds",
        "gateway_resumes_total",
        "node_realms_moving",
        "gateway_core_busy_permille",
        "gateway_queue_bytes",
        "node_link_queue_bytes",
        "gateway_closes_total",
    ] {
        assert!(shown.contains(name), "{name}: {shown:?}");
    }
}

#[test]
fn the_manual_says_how_to_install_upgrade_scale_restore_and_tune() {
    let manual = read("docs/operations.md");
    for chapter in [
        "Install",
        "What may fail",
        "Stop and upgrade",
        "Scale out and in",
        "Tune",
        "Back up and restore",
        "Keys and passwords",
        "Metrics and alerts",
        "Larger stores",
    ] {
        assert!(manual.contains(&format!("\n## {chapter}\n")), "{chapter}");
    }
    assert!(manual.contains("guildhall-api raise-era"));
}

#[test]
fn alerts_fire_when_they_should() {
    let folder = "deploy/prometheus";
    if let Some(output) = tool("promtool", &["test", "rules", "guildhall.test.yml"], folder) {
        success(&output);
        let config = tool("promtool", &["check", "config", "prometheus.yml"], folder);
        success(&config.expect("it was there a moment ago"));
    }
}

#[test]
fn every_panel_asks_something_that_prometheus_understands() {
    let dashboard = dashboard();
    let rules: Vec<Value> = expressions(&dashboard)
        .iter()
        .enumerate()
        .map(|(n, text)| {
            let text = text.replace("$__rate_interval", "5m");
            json!({ "record": format!("panel:{n}"), "expr": text })
        })
        .collect();
    // JSON is YAML, too.
    let rules = json!({ "groups": [{ "name": "panels", "rules": rules }] });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("panels.yml");
    fs::write(&file, rules.to_string()).unwrap();
    let file = file.to_str().expect("a plain path");
    if let Some(output) = tool("promtool", &["check", "rules", file], "deploy") {
        success(&output);
    }
}

#[test]
fn panels_have_ids_of_their_own_and_the_dashboard_a_stable_one() {
    let dashboard = dashboard();
    assert_eq!(dashboard["uid"], "guildhall");
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<String> = panels.iter().map(|panel| panel["id"].to_string()).collect();
    assert_eq!(ids.len(), panels.len());
}

#[test]
fn targets_and_alerts_name_the_same_jobs() {
    let jobs = |text: &str, pattern: &str| -> BTreeSet<String> {
        let found = Regex::new(pattern).unwrap();
        let jobs = found.captures_iter(text).map(|job| job[1].to_owned());
        jobs.collect()
    };
    let scraped = jobs(&read("deploy/prometheus/prometheus.yml"), "job_name: (.+)");
    let alerting = jobs(&read(RULES), "job=\"(.+?)\"");
    assert!(alerting.is_subset(&scraped), "{alerting:?} {scraped:?}");
    let monitors = "deploy/kubernetes/components/servicemonitor/monitors.yaml";
    assert!(checkout().join(monitors).is_file());
    assert_eq!(
        jobs(&read(monitors), "targetLabel: job, replacement: (.+) }"),
        scraped
    );
}
