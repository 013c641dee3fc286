//! What is deployed fits the code: names of settings and metrics, ports, references.

mod compose;
mod kubernetes;
mod metrics;
mod monitoring;
mod settings;
mod systemd;

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    process::{Command, Output},
    time::Duration,
};

use deploy::{checkout, settings::Program};
use serde_json::Value;

/// Set where the programs of others must be there: a check without its program then fails.
const TOOLS_REQUIRED: &str = "GUILDHALL_DEPLOY_TOOLS";

fn read(path: &str) -> String {
    let file = checkout().join(path);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// What a gateway is told of the time in which its clients leave.
const STOP_OVER_MS: &str = "GATEWAY_STOP_OVER_MS";

/// Seconds from SIGTERM to a program's end: its own limits, and some for what has none. `stop_over_ms`:
/// what it is told by [`STOP_OVER_MS`].
fn stop_seconds(program: &str, stop_over_ms: Option<&str>) -> u64 {
    use guildhall_api::{app::WORK_GRACE, http::DRAIN_TIMEOUT};
    use guildhall_gateway::server::{LEAVING_NOTICE, STAY_MAX, STOP_OVER};
    let stop_over = stop_over_ms.map_or(STOP_OVER, |ms| {
        Duration::from_millis(ms.parse().expect("milliseconds"))
    });
    let limits = match program {
        "guildhall-api" => DRAIN_TIMEOUT + WORK_GRACE,
        "guildhall-gateway" => LEAVING_NOTICE + stop_over + STAY_MAX,
        _ => Duration::ZERO,
    };
    limits.as_secs() + 5
}

/// Listeners for the cluster and for operators, and what lets each be where everybody can reach it.
const PRIVATE_LISTENERS: [(&str, &str); 4] = [
    ("API_INTERNAL_LISTEN", "API_INTERNAL_PUBLIC"),
    ("GATEWAY_ADMIN_LISTEN", "GATEWAY_ADMIN_PUBLIC"),
    ("RELAY_LISTEN", "RELAY_PUBLIC"),
    ("COORDINATOR_LISTEN", "COORDINATOR_PUBLIC"),
];

/// Whether a program that is told so listens for its cluster and for operators: at all addresses of a
/// container it has to be allowed.
fn may_listen(address: &str, allowed: Option<&str>) -> bool {
    let address: SocketAddr = address.parse().expect("an address");
    !address.ip().is_unspecified() || allowed == Some("true")
}

/// Settings that more than one program reads.
fn shared(programs: &[Program]) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let all = programs.iter().flat_map(Program::variables);
    all.filter(|name| !seen.insert(name.clone())).collect()
}

/// The documents of a YAML file; empty ones are left out.
fn documents(yaml: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).expect("valid YAML");
    documents
        .into_iter()
        .filter(|document| !document.is_null())
        .collect()
}

/// Runs another's program in a folder of the repository; `None` where it is not installed.
fn tool(program: &str, arguments: &[&str], folder: &str) -> Option<Output> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(checkout().join(folder))
        .output();
    match output {
        Ok(output) => Some(output),
        Err(_) if std::env::var_os(TOOLS_REQUIRED).is_none() => {
            eprintln!("not checked: there is no {program} here");
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

/// Its standard output; fails with all it said if it failed.
fn success(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    out
}

/// All strings that a document has under a name, at any depth.
fn strings<'v>(value: &'v Value, key: &str, found: &mut Vec<&'v str>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == key => found.push(text),
                    value => strings(value, key, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| strings(item, key, found)),
        _ => {}
    }
}
