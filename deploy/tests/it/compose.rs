//! The compose file: services name each other, variables and ports as they are.

use std::collections::{BTreeMap, BTreeSet};

use deploy::settings::programs;
use regex::Regex;
use serde_json::Value;

use crate::{PRIVATE_LISTENERS, STOP_OVER_MS, documents, may_listen, read, shared, stop_seconds};

const FILE: &str = "deploy/docker-compose.yml";

fn services() -> serde_json::Map<String, Value> {
    let compose = documents(&read(FILE)).remove(0);
    compose["services"].as_object().expect("services").clone()
}

/// The program that a service of ours runs.
fn program(service: &Value) -> Option<String> {
    let ours = service["image"] == "guildhall";
    ours.then(|| {
        service["command"][0]
            .as_str()
            .expect("a command")
            .to_owned()
    })
}

#[test]
fn services_of_ours_are_told_settings_that_they_have() {
    let programs = programs();
    let mut ours = 0;
    for (name, service) in services() {
        let Some(run) = program(&service) else {
            continue;
        };
        ours += 1;
        let program = programs.iter().find(|program| program.name == run);
        let known = program.expect("one of ours").variables();
        for variable in service["environment"].as_object().expect("settings").keys() {
            assert!(known.contains(variable), "{name}: {variable}");
        }
    }
    assert_eq!(ours, 6, "migrate, the API, two coordinators, two gateways");
}

#[test]
fn what_several_programs_read_all_services_are_told_alike() {
    let programs = programs();
    let shared = shared(&programs);
    let mut told: BTreeMap<&str, BTreeSet<Option<String>>> = BTreeMap::new();
    for (name, service) in services() {
        let Some(run) = program(&service).filter(|_| name != "migrate") else {
            continue;
        };
        let program = programs.iter().find(|program| program.name == run);
        let known = program.expect("one of ours").variables();
        for variable in shared.iter().filter(|variable| known.contains(*variable)) {
            let value = service["environment"].get(variable);
            let values = told.entry(variable.as_str()).or_default();
            values.insert(value.map(Value::to_string));
        }
    }
    assert!(told["GATEWAY_URL"].iter().all(Option::is_some));
    for (variable, values) in told {
        assert_eq!(values.len(), 1, "{variable}: {values:?}");
    }
}

#[test]
fn services_stop_in_their_own_time() {
    for (name, service) in services() {
        let Some(run) = program(&service) else {
            continue;
        };
        let grace = service["stop_grace_period"].as_str().expect("a time");
        let grace: u64 = grace.trim_end_matches('s').parse().expect("seconds");
        let stop_over = service["environment"][STOP_OVER_MS].as_str();
        assert!(grace >= stop_seconds(&run, stop_over), "{name}: {grace} s");
    }
}

#[test]
fn gateways_have_files_for_their_connections_and_count_none_of_the_proxy() {
    let programs = programs();
    let gateway = programs
        .iter()
        .find(|program| program.name == "guildhall-gateway");
    let connections = gateway.and_then(|gateway| gateway.default_of("GATEWAY_CONNECTIONS_MAX"));
    let connections: u64 = connections.expect("a default").parse().unwrap();
    let services = services();
    assert!(services["api"]["environment"]["API_PROXIES"].is_string());
    for name in ["gateway-1", "gateway-2"] {
        let files = services[name]["ulimits"]["nofile"].as_u64();
        assert!(files.is_some_and(|files| files > connections), "{name}");
        let settings = &services[name]["environment"];
        assert_eq!(settings["GATEWAY_CONNECTIONS_PER_ADDRESS_MAX"], "0");
    }
}

#[test]
fn containers_run_without_rights() {
    for (name, service) in services() {
        if program(&service).is_some() {
            assert_eq!(service["read_only"], true, "{name}");
            assert_eq!(service["cap_drop"][0], "ALL", "{name}");
        }
        // Images of others give up root when they start their own program, not for a shell.
        let is_shell = service["command"][0] == "sh";
        assert!(!is_shell || service["user"].is_string(), "{name} is root's");
    }
}

#[test]
fn the_image_is_built_in_two_stages_and_runs_as_nobody_in_particular() {
    let image = read("deploy/Dockerfile");
    let stages: Vec<&str> = image.split("\nFROM ").skip(1).collect();
    assert_eq!(stages.len(), 2, "programs are built in one, and copied");
    let last = stages[1];
    assert!(last.contains("-slim\n") && last.contains("COPY --from=build /out/"));
    let user = Regex::new(r"(?m)^USER (\d+)$").unwrap();
    let user = user.captures(last).expect("a user, by number");
    assert_ne!(&user[1], "0");
    for program in [
        "guildhall-api",
        "guildhall-gateway",
        "shard-coordinator",
        "guildctl",
    ] {
        assert!(stages[0].contains(&format!("target/release/{program}")));
    }
}

#[test]
fn the_file_of_secrets_gets_into_no_commit_and_no_build() {
    for (file, line) in [(".gitignore", ".env"), (".dockerignore", "**/.env")] {
        assert!(read(file).lines().any(|known| known == line), "{file}");
    }
}

#[test]
fn services_wait_for_services_that_exist() {
    let services = services();
    for (name, service) in &services {
        for other in service["depends_on"].as_object().into_iter().flatten() {
            assert!(services.contains_key(other.0), "{name}: {}", other.0);
        }
    }
}

#[test]
fn health_is_asked_where_it_is_answered() {
    let port = Regex::new(r"http://127\.0\.0\.1:(\d+)/ready").unwrap();
    for (name, service) in services() {
        let listen = match program(&service).as_deref() {
            Some("guildhall-gateway") => "GATEWAY_ADMIN_LISTEN",
            Some("shard-coordinator") => "COORDINATOR_LISTEN",
            Some("guildhall-api") if name != "migrate" => "API_INTERNAL_LISTEN",
            _ => continue,
        };
        let asked = service["healthcheck"]["test"].to_string();
        let asked = &port.captures(&asked).expect("an address")[1];
        let listens = service["environment"][listen].as_str().expect("a listener");
        assert!(listens.ends_with(&format!(":{asked}")), "{name}");
    }
}

#[test]
fn what_only_operators_and_gateways_ask_is_not_published() {
    let port = |address: &str| address.rsplit(':').next().unwrap_or_default().to_owned();
    let mut private = 0;
    for (name, service) in services() {
        let published = service["ports"].as_array().into_iter().flatten();
        let published: Vec<String> = published
            .map(|published| port(published.as_str().expect("a port")))
            .collect();
        for (setting, switch) in PRIVATE_LISTENERS {
            if let Some(address) = service["environment"][setting].as_str() {
                private += 1;
                assert!(!published.contains(&port(address)), "{name}: {setting}");
                let allowed = service["environment"][switch].as_str();
                assert!(may_listen(address, allowed), "{name}: {switch}");
            }
        }
    }
    assert_eq!(
        private, 8,
        "the API's, and that of its migration; two of each gateway, one of each coordinator"
    );
}

#[test]
fn prometheus_finds_the_services_where_they_listen() {
    let services = services();
    let target = Regex::new(r#""([a-z0-9-]+):(\d+)""#).unwrap();
    let config = read("deploy/prometheus/prometheus.yml");
    let mut targets = 0;
    for found in target.captures_iter(&config) {
        targets += 1;
        let settings = services[&found[1]]["environment"].to_string();
        assert!(settings.contains(&format!(":{}\"", &found[2])), "{found:?}");
    }
    assert_eq!(targets, 5);
}

#[test]
fn every_secret_of_the_file_is_in_its_example() {
    let example = read("deploy/compose.env.example");
    let variable = Regex::new(r"\$\{([A-Z0-9_]+)[:}]").unwrap();
    for found in variable.captures_iter(&read(FILE)) {
        let line = format!("{}=", &found[1]);
        assert!(example.contains(&line), "{}", &found[1]);
    }
}
