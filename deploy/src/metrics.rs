//! Every metric of every program, from the programs' own lists, and who asks for it.

use std::{fmt::Write as _, fs};

use anyhow::{Context, Result, anyhow};
use prometheus::{core::Collector, proto::MetricType};
use serde_json::Value;

use crate::checkout;

/// The page, below the root of the repository.
pub const FILE: &str = "docs/metrics.md";
/// The alerts, below the root of the repository.
pub const RULES: &str = "deploy/prometheus/guildhall.rules.yml";
/// The dashboard, below the root of the repository.
pub const DASHBOARD: &str = "deploy/grafana/guildhall.json";

/// In a metric's help: between what is counted and what is to be expected.
const NORMAL: &str = " Normal: ";
/// Series of a histogram, behind its name.
const SERIES: [&str; 3] = ["_bucket", "_sum", "_count"];

const HEAD: &str = "\
# Metrics

Made from the programs' own lists, the alerts and the dashboard by `cargo run -p deploy`; do not edit. Where a program
answers `/metrics` is in [`operations.md`](operations.md#health), what to do about an alert
[further down there](operations.md#metrics-and-alerts).

Each process counts from its own start: ask for rates, and sum them. A histogram is there as `_bucket`, `_sum` and
`_count`. What has a label is there from its first event on, or with 0 from the start where the values are known before. A unit
of – means plain numbers of what is counted, and 0 or 1 for what is or is not so. Labels never hold ids of users, guilds or
channels; `job` and `instance` are Prometheus' own. Panels are those of the dashboard, by row and title.
";

/// A program and what it counts.
#[derive(Debug)]
pub struct Program {
    /// Name of the binary.
    pub name: &'static str,
    pub metrics: Vec<Metric>,
    /// Labels of its metrics, and their values in words.
    pub labels: &'static [(&'static str, &'static str)],
}

/// What `/metrics` shows under one name.
#[derive(Debug)]
pub struct Metric {
    pub name: String,
    /// As Prometheus calls it: `counter`, `gauge`, `histogram`.
    pub kind: &'static str,
    pub labels: Vec<String>,
    /// Labels with the values that they have from the start.
    pub values: Vec<(String, String)>,
    help: String,
}

/// An alert or a panel.
struct Asker {
    /// As the page names it.
    name: String,
    expressions: Vec<String>,
}

/// All programs that run for long.
///
/// Errors: a name or a label that cannot be one.
pub fn programs() -> Result<Vec<Program>> {
    let api = guildhall_api::telemetry::Metrics::new()?.collectors();
    let gateway = guildhall_gateway::metrics::collectors()?;
    let coordinator = shard_coordinator::collectors();
    Ok(vec![
        Program {
            name: "guildhall-api",
            metrics: metrics(&api),
            labels: guildhall_api::telemetry::LABELS,
        },
        Program {
            name: "guildhall-gateway",
            metrics: metrics(&gateway),
            labels: guildhall_gateway::metrics::LABELS,
        },
        Program {
            name: "shard-coordinator",
            metrics: metrics(&coordinator),
            labels: &[],
        },
    ])
}

fn metrics(collectors: &[Box<dyn Collector>]) -> Vec<Metric> {
    let mut metrics = Vec::new();
    for collector in collectors {
        let families = collector.collect();
        for (desc, family) in collector.desc().into_iter().zip(&families) {
            let series = family.get_metric().iter();
            let labels = series.flat_map(|series| series.get_label());
            metrics.push(Metric {
                name: desc.fq_name.clone(),
                kind: match family.get_field_type() {
                    MetricType::COUNTER => "counter",
                    MetricType::GAUGE => "gauge",
                    MetricType::HISTOGRAM => "histogram",
                    MetricType::SUMMARY => "summary",
                    MetricType::UNTYPED => "untyped",
                },
                labels: desc.variable_labels.clone(),
                values: labels
                    .map(|label| (label.name().to_owned(), label.value().to_owned()))
                    .collect(),
                help: desc.help.clone(),
            });
        }
    }
    metrics
}

impl Metric {
    /// What is counted, and what is to be expected; `None` if its help does not say both.
    pub fn said(&self) -> Option<(&str, &str)> {
        self.help.split_once(NORMAL)
    }

    fn unit(&self) -> &'static str {
        let units = [
            ("_timestamp_seconds", "Unix time, s"),
            ("_seconds", "s"),
            ("_ms", "ms"),
            ("_bytes", "bytes"),
            ("_permille", "‰"),
            ("_per_mille", "‰"),
        ];
        let unit = units.into_iter().find(|(end, _)| self.name.ends_with(end));
        unit.map_or("–", |(_, unit)| unit)
    }

    fn is_in(&self, expression: &str) -> bool {
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        expression.split(|c| !is_of_name(c)).any(|word| {
            let series = SERIES.iter().find_map(|end| word.strip_suffix(end));
            word == self.name || series == Some(self.name.as_str())
        })
    }
}

/// The whole page.
///
/// Errors: what [`programs`] refuses, and alerts or a dashboard that cannot be read.
pub fn page() -> Result<String> {
    let mut askers = alerts()?;
    askers.extend(panels()?);
    let mut page = HEAD.to_owned();
    for program in programs()? {
        let _ = write!(
            page,
            "\n## {}\n\n\
             | metric | type | unit | labels | what is counted | normal | asked for by |\n\
             |---|---|---|---|---|---|---|\n",
            program.name
        );
        for metric in &program.metrics {
            let (counted, normal) = metric.said().unwrap_or((metric.help.as_str(), ""));
            let labels: Vec<String> = metric.labels.iter().map(|it| format!("`{it}`")).collect();
            let asking = askers.iter().filter(|asker| {
                let mut expressions = asker.expressions.iter();
                expressions.any(|expression| metric.is_in(expression))
            });
            let asking: Vec<&str> = asking.map(|asker| asker.name.as_str()).collect();
            let _ = writeln!(
                page,
                "| `{}` | {} | {} | {} | {} | {} | {} |",
                metric.name,
                metric.kind,
                metric.unit(),
                in_cell(&labels.join(", ")),
                in_cell(counted),
                in_cell(normal),
                in_cell(&asking.join(", ")),
            );
        }
        if !program.labels.is_empty() {
            page.push_str("\n| label | values |\n|---|---|\n");
        }
        for (label, values) in program.labels {
            let _ = writeln!(page, "| `{label}` | {} |", in_cell(values));
        }
    }
    Ok(page)
}

fn in_cell(text: &str) -> String {
    match text {
        "" => "–".to_owned(),
        text => text.replace('|', "\\|"),
    }
}

fn alerts() -> Result<Vec<Asker>> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&read(RULES)?).map_err(|error| anyhow!("{RULES}: {error}"))?;
    let groups = documents.iter().flat_map(|it| list(&it["groups"]));
    let rules = groups.flat_map(|group| list(&group["rules"]));
    let alerts = rules.map(|rule| {
        let name = text(&rule["alert"]);
        Asker {
            name: format!("[{name}](operations.md#{})", name.to_lowercase()),
            expressions: vec![text(&rule["expr"]).to_owned()],
        }
    });
    Ok(alerts.collect())
}

fn panels() -> Result<Vec<Asker>> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)?).context(DASHBOARD)?;
    let (mut panels, mut row) = (Vec::new(), "");
    for panel in list(&dashboard["panels"]) {
        let title = text(&panel["title"]);
        if panel["type"] == "row" {
            row = title;
            continue;
        }
        let targets = list(&panel["targets"]).iter();
        panels.push(Asker {
            name: format!("panel *{row}: {title}*"),
            expressions: targets
                .map(|target| text(&target["expr"]).to_owned())
                .collect(),
        });
    }
    Ok(panels)
}

fn read(path: &str) -> Result<String> {
    let file = checkout().join(path);
    fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
