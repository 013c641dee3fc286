//! What kustomize renders: references, ports and settings fit each other and the code.

use std::collections::{BTreeMap, BTreeSet};

use deploy::settings::{Program, programs};
use regex::Regex;
use serde_json::{Map, Value};

use crate::{
    PRIVATE_LISTENERS, STOP_OVER_MS, documents, may_listen, monitoring::registered, read, shared,
    stop_seconds, success, tool,
};

const FOLDERS: [&str; 3] = ["base", "overlays/small", "overlays/large"];

/// Everything one folder renders to.
struct Rendered(Vec<Value>);

/// Pods of one workload.
struct Pods<'r> {
    workload: &'r str,
    labels: &'r Value,
    spec: &'r Value,
}

fn each(check: impl Fn(&Rendered)) {
    for folder in FOLDERS {
        let output = tool("kubectl", &["kustomize", folder], "deploy/kubernetes");
        if let Some(output) = output {
            let rendered = Rendered(documents(&success(&output)));
            assert!(rendered.0.len() > 15, "{folder}");
            check(&rendered);
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// What a ConfigMap or a Secret holds.
fn settings(object: &Value) -> &Map<String, Value> {
    let data = object["data"].as_object();
    data.or(object["stringData"].as_object()).expect("settings")
}

impl Rendered {
    fn of<'r>(&'r self, kind: &'r str) -> impl Iterator<Item = &'r Value> {
        self.0.iter().filter(move |object| object["kind"] == kind)
    }

    fn has(&self, kind: &str, name: &Value) -> bool {
        self.of(kind)
            .any(|object| object["metadata"]["name"] == *name)
    }

    fn pods(&self) -> Vec<Pods<'_>> {
        let workloads = ["Deployment", "StatefulSet", "Job"];
        let workloads = workloads.into_iter().flat_map(|kind| self.of(kind));
        let pods = workloads.map(|workload| Pods {
            workload: text(&workload["metadata"]["name"]),
            labels: &workload["spec"]["template"]["metadata"]["labels"],
            spec: &workload["spec"]["template"]["spec"],
        });
        pods.collect()
    }

    /// Pods that a selector means.
    fn selected(&self, selector: &Value) -> Vec<Pods<'_>> {
        let selector = selector.as_object().cloned().unwrap_or_default();
        let mut pods = self.pods();
        pods.retain(|pods| {
            selector
                .iter()
                .all(|(label, value)| pods.labels[label] == *value)
        });
        pods
    }

    /// What a container is told: by itself, else by the maps and secrets that it names.
    fn told<'r>(&'r self, container: &'r Value) -> BTreeMap<&'r str, &'r str> {
        let mut told = BTreeMap::new();
        for from in list(&container["envFrom"]) {
            for (kind, reference) in [("ConfigMap", "configMapRef"), ("Secret", "secretRef")] {
                let named = self
                    .of(kind)
                    .find(|object| object["metadata"]["name"] == from[reference]["name"]);
                let settings = named.map(settings).into_iter().flatten();
                told.extend(settings.map(|(name, value)| (name.as_str(), text(value))));
            }
        }
        let own = list(&container["env"]).iter();
        told.extend(own.map(|variable| (text(&variable["name"]), text(&variable["value"]))));
        told
    }

    /// Our containers, with the program that each runs.
    fn ours<'r>(&'r self, programs: &'r [Program]) -> Vec<(&'r Value, &'r Program)> {
        let containers = self
            .pods()
            .into_iter()
            .flat_map(|pods| list(&pods.spec["containers"]));
        let ours = containers.filter(|container| {
            let image = text(&container["image"]);
            let image = image.rsplit('/').next().unwrap_or_default();
            image.split(':').next() == Some("guildhall")
        });
        let ours = ours.map(|container| {
            let command = text(&container["command"][0]);
            let program = programs.iter().find(|program| program.name == command);
            (
                container,
                program.unwrap_or_else(|| panic!("{command} is no program")),
            )
        });
        ours.collect()
    }
}

impl Pods<'_> {
    fn ports(&self) -> BTreeMap<&str, u64> {
        let containers = list(&self.spec["containers"]).iter();
        let ports = containers.flat_map(|container| list(&container["ports"]));
        ports
            .map(|port| {
                (
                    text(&port["name"]),
                    port["containerPort"].as_u64().expect("a port"),
                )
            })
            .collect()
    }
}

#[test]
fn every_object_is_in_the_namespace_and_named_once() {
    each(|rendered| {
        let mut seen = BTreeSet::new();
        for object in &rendered.0 {
            let (kind, meta) = (text(&object["kind"]), &object["metadata"]);
            assert!(seen.insert((kind, text(&meta["name"]))), "{kind} {meta}");
            assert!(object["apiVersion"].is_string(), "{kind} {meta}");
            if kind != "Namespace" {
                assert_eq!(meta["namespace"], "guildhall", "{kind} {meta}");
            }
        }
    });
}

/// An upgrade applies settings, the migration and each program by itself, by this label.
#[test]
fn every_step_of_an_upgrade_has_its_label() {
    let label = |meta: &Value| text(&meta["labels"]["app.kubernetes.io/name"]).to_owned();
    let manual = read("docs/operations.md");
    let programs = programs();
    each(|rendered| {
        let settings = rendered.of("ConfigMap").chain(rendered.of("Secret"));
        let mut labels: BTreeSet<String> = settings.map(|each| label(&each["metadata"])).collect();
        assert_eq!(labels.len(), 1, "{labels:?}");
        for kind in ["Deployment", "StatefulSet", "Job"] {
            for workload in rendered.of(kind) {
                let own = label(&workload["metadata"]);
                assert_eq!(own, label(&workload["spec"]["template"]["metadata"]));
                labels.insert(own);
            }
        }
        assert_eq!(labels.len(), 1 + rendered.ours(&programs).len());
        labels.remove("guildhall-coordinator"); // with the rest
        for label in labels {
            let step = format!("-l app.kubernetes.io/name={label}\n");
            assert!(manual.contains(&step), "{step}");
        }
    });
}

#[test]
fn programs_are_told_settings_that_they_have() {
    let programs = programs();
    let anybody: BTreeSet<String> = programs.iter().flat_map(Program::variables).collect();
    each(|rendered| {
        let ours = rendered.ours(&programs);
        assert_eq!(ours.len(), 4, "migrate, API, coordinator, gateway");
        for (container, program) in ours {
            let known = program.variables();
            for variable in list(&container["env"]) {
                let name = text(&variable["name"]);
                assert!(known.contains(name), "{}: {name}", program.name);
            }
        }
        for kind in ["ConfigMap", "Secret"] {
            for name in rendered.of(kind).flat_map(|object| settings(object).keys()) {
                assert!(anybody.contains(name), "{name}");
            }
        }
    });
}

#[test]
fn what_several_programs_read_all_of_them_are_told_alike() {
    let programs = programs();
    let shared = shared(&programs);
    each(|rendered| {
        let mut told: BTreeMap<&str, BTreeSet<Option<&str>>> = BTreeMap::new();
        for (container, program) in rendered.ours(&programs) {
            if list(&container["ports"]).is_empty() {
                continue; // the Job that migrates
            }
            let (values, known) = (rendered.told(container), program.variables());
            for name in shared.iter().filter(|name| known.contains(*name)) {
                let value = values.get(name.as_str()).copied();
                told.entry(name.as_str()).or_default().insert(value);
            }
        }
        assert!(told["GATEWAY_URL"].iter().all(Option::is_some));
        for (name, values) in told {
            assert_eq!(values.len(), 1, "{name}: {values:?}");
        }
    });
}

/// Kubernetes leaves `$(NAME)` as it is where NAME comes later.
#[test]
fn variables_are_made_of_those_before_them() {
    let part = Regex::new(r"\$\(([A-Z0-9_]+)\)").unwrap();
    each(|rendered| {
        for pods in rendered.pods() {
            for container in list(&pods.spec["containers"]) {
                let mut before: BTreeSet<&str> = BTreeSet::new();
                for variable in list(&container["env"]) {
                    for found in part.captures_iter(text(&variable["value"])) {
                        assert!(before.contains(&found[1]), "{variable}");
                    }
                    before.insert(text(&variable["name"]));
                }
            }
        }
    });
}

#[test]
fn what_pods_refer_to_exists() {
    each(|rendered| {
        for pods in rendered.pods() {
            for container in list(&pods.spec["containers"]) {
                for from in list(&container["envFrom"]) {
                    if let Some(map) = from.get("configMapRef") {
                        assert!(rendered.has("ConfigMap", &map["name"]), "{map}");
                    }
                    if let Some(secret) = from.get("secretRef") {
                        assert!(rendered.has("Secret", &secret["name"]), "{secret}");
                    }
                }
            }
            for volume in list(&pods.spec["volumes"]) {
                let map = &volume["configMap"]["name"];
                assert!(rendered.has("ConfigMap", map), "{volume}");
            }
        }
    });
}

#[test]
fn services_disruption_budgets_and_policies_mean_pods_that_exist() {
    each(|rendered| {
        for service in rendered.of("Service") {
            let pods = rendered.selected(&service["spec"]["selector"]);
            assert_eq!(pods.len(), 1, "{service}");
            for port in list(&service["spec"]["ports"]) {
                let listens = pods[0].ports().get(text(&port["targetPort"])).copied();
                assert_eq!(listens, port["port"].as_u64(), "{service}");
            }
        }
        for budget in rendered.of("PodDisruptionBudget") {
            let pods = rendered.selected(&budget["spec"]["selector"]["matchLabels"]);
            assert_eq!(pods.len(), 1, "{budget}");
        }
        for policy in rendered.of("NetworkPolicy") {
            let pods = rendered.selected(&policy["spec"]["podSelector"]["matchLabels"]);
            assert!(!pods.is_empty(), "{policy}");
            for rule in list(&policy["spec"]["ingress"]) {
                for port in list(&rule["ports"]) {
                    let port = port["port"].as_u64().expect("a port");
                    let is_served = pods[0].ports().values().any(|&served| served == port);
                    assert!(is_served, "{policy}");
                }
            }
        }
    });
}

#[test]
fn only_gateways_reach_the_relay_and_only_monitoring_what_operators_ask() {
    each(|rendered| {
        let mut ports = BTreeSet::new();
        for policy in rendered.of("NetworkPolicy") {
            let pods = &policy["spec"]["podSelector"];
            for rule in list(&policy["spec"]["ingress"]) {
                for port in list(&rule["ports"]) {
                    let (port, from) = (port["port"].as_u64(), &rule["from"][0]);
                    ports.extend(port);
                    match port {
                        Some(8080 | 8081) => {}
                        Some(8100) => assert_eq!(from["podSelector"], *pods),
                        Some(8089..=8091) => assert!(from["namespaceSelector"].is_object()),
                        other => panic!("{other:?} is open"),
                    }
                }
            }
        }
        assert_eq!(ports.len(), 6, "{ports:?}");
    });
}

#[test]
fn programs_may_listen_where_they_are_told() {
    let programs = programs();
    each(|rendered| {
        let mut private = 0;
        for (container, program) in rendered.ours(&programs) {
            let told = rendered.told(container);
            for (setting, switch) in PRIVATE_LISTENERS {
                let Some(&address) = told.get(setting) else {
                    continue;
                };
                private += 1;
                let allowed = told.get(switch).copied();
                assert!(may_listen(address, allowed), "{}: {switch}", program.name);
            }
        }
        assert!(private >= 4, "{private}");
    });
}

/// No ingress has to keep anything back: it leads to ports of clients alone.
#[test]
fn what_operators_ask_of_the_api_is_not_at_its_public_port() {
    let programs = programs();
    each(|rendered| {
        let ours = rendered.ours(&programs);
        let api = ours.into_iter().find(|(container, program)| {
            program.name == "guildhall-api" && !list(&container["ports"]).is_empty()
        });
        let (container, _) = api.expect("the API");
        let internal = rendered.told(container)["API_INTERNAL_LISTEN"];
        let mut ports = list(&container["ports"]).iter();
        let admin = ports.find(|port| port["name"] == "admin");
        let admin = &admin.expect("a port for operators")["containerPort"];
        assert!(internal.ends_with(&format!(":{admin}")), "{internal}");
        for probe in ["readinessProbe", "livenessProbe"] {
            assert_eq!(container[probe]["httpGet"]["port"], "admin", "{probe}");
        }
        for ingress in rendered.of("Ingress") {
            let rules = list(&ingress["spec"]["rules"]).iter();
            for path in rules.flat_map(|rule| list(&rule["http"]["paths"])) {
                let port = text(&path["backend"]["service"]["port"]["name"]);
                assert!(["http", "clients"].contains(&port), "{ingress}");
            }
        }
    });
}

#[test]
fn ingress_and_autoscaling_lead_to_what_exists() {
    let metrics = registered();
    each(|rendered| {
        for ingress in rendered.of("Ingress") {
            let rules = list(&ingress["spec"]["rules"]).iter();
            for path in rules.flat_map(|rule| list(&rule["http"]["paths"])) {
                let target = &path["backend"]["service"];
                let service = rendered
                    .of("Service")
                    .find(|service| service["metadata"]["name"] == target["name"]);
                let service = service.unwrap_or_else(|| panic!("{target}"));
                let ports = list(&service["spec"]["ports"]);
                assert!(
                    ports
                        .iter()
                        .any(|port| port["name"] == target["port"]["name"]),
                    "{target}"
                );
            }
        }
        for scaler in rendered.of("HorizontalPodAutoscaler") {
            let target = &scaler["spec"]["scaleTargetRef"];
            let workload = rendered
                .of(text(&target["kind"]))
                .find(|object| object["metadata"]["name"] == target["name"]);
            let workload = workload.unwrap_or_else(|| panic!("{target}"));
            // A number here would undo what the scaler did, at each apply.
            assert!(workload["spec"]["replicas"].is_null(), "{target}");
            for metric in list(&scaler["spec"]["metrics"]) {
                let name = text(&metric["pods"]["metric"]["name"]);
                let is_known = metric["type"] == "Resource" || metrics.contains(name);
                assert!(is_known, "nothing counts {metric}");
            }
        }
    });
}

#[test]
fn programs_listen_on_their_usual_ports_and_are_probed_there() {
    let programs = programs();
    each(|rendered| {
        for (container, program) in rendered.ours(&programs) {
            let is_job = list(&container["ports"]).is_empty();
            for (port, variable) in [
                ("http", "API_LISTEN"),
                ("clients", "GATEWAY_LISTEN"),
                ("admin", "GATEWAY_ADMIN_LISTEN"),
                ("admin", "COORDINATOR_LISTEN"),
            ] {
                let Some(usual) = program.default_of(variable).filter(|_| !is_job) else {
                    continue;
                };
                let served = list(&container["ports"])
                    .iter()
                    .find(|served| served["name"] == port);
                let served = &served.unwrap_or_else(|| panic!("{port}"))["containerPort"];
                assert!(
                    usual.ends_with(&format!(":{served}")),
                    "{variable}: {usual}"
                );
            }
            for (probe, path) in [("readinessProbe", "/ready"), ("livenessProbe", "/health")] {
                assert!(
                    is_job || container[probe]["httpGet"]["path"] == path,
                    "{}",
                    program.name
                );
            }
        }
    });
}

#[test]
fn pods_have_the_time_that_their_programs_take_to_stop() {
    each(|rendered| {
        for pods in rendered.pods() {
            for container in list(&pods.spec["containers"]) {
                if list(&container["ports"]).is_empty() {
                    continue; // the Job that migrates
                }
                let pause = text(&container["lifecycle"]["preStop"]["exec"]["command"][1]);
                let pause: u64 = pause.parse().unwrap_or(0);
                let stop_over = rendered.told(container).get(STOP_OVER_MS).copied();
                let needs = pause + stop_seconds(text(&container["command"][0]), stop_over);
                let grace = pods.spec["terminationGracePeriodSeconds"].as_u64();
                assert!(
                    grace.is_some_and(|grace| grace >= needs),
                    "{}",
                    pods.workload
                );
            }
        }
    });
}

#[test]
fn gateways_pause_before_they_drain_and_two_coordinators_run_and_few_go_at_once() {
    each(|rendered| {
        let named = |kind, name| {
            let mut all = rendered.of(kind);
            let found = all.find(|object| object["metadata"]["name"] == name);
            found.unwrap_or_else(|| panic!("no {kind} {name}"))
        };
        let gateway = &named("StatefulSet", "gateway")["spec"]["template"]["spec"];
        let pause = &gateway["containers"][0]["lifecycle"]["preStop"]["exec"]["command"];
        assert_eq!(pause[0], "sleep");
        assert_eq!(named("Deployment", "coordinator")["spec"]["replicas"], 2);
        for name in ["api", "coordinator", "gateway"] {
            let budget = named("PodDisruptionBudget", name);
            assert_eq!(budget["spec"]["maxUnavailable"], 1, "{name}");
        }
    });
}

#[test]
fn the_large_overlay_scales_gateways_by_their_connections() {
    let folder = "deploy/kubernetes";
    let Some(output) = tool("kubectl", &["kustomize", "overlays/large"], folder) else {
        return;
    };
    let rendered = Rendered(documents(&success(&output)));
    let mut scalers = rendered.of("HorizontalPodAutoscaler");
    let scaler = scalers.find(|scaler| scaler["spec"]["scaleTargetRef"]["name"] == "gateway");
    let scaler = scaler.expect("gateways are scaled");
    let pods = &scaler["spec"]["metrics"][0]["pods"];
    assert_eq!(pods["metric"]["name"], "gateway_connections");
    // All clients of a gateway that stops reconnect, and the others take only so many a second.
    let thousands = text(&pods["target"]["averageValue"]).strip_suffix('k');
    let thousands: u64 = thousands.expect("thousands").parse().unwrap();
    let programs = programs();
    let mut ours = rendered.ours(&programs).into_iter();
    let gateway = ours.find(|(_, program)| program.name == "guildhall-gateway");
    let (gateway, _) = gateway.expect("a gateway");
    let over_ms: u64 = rendered.told(gateway)[STOP_OVER_MS].parse().unwrap();
    assert!(thousands * 1_000_000 / over_ms <= 1_000, "{over_ms} ms");
}

#[test]
fn pods_run_without_rights() {
    each(|rendered| {
        for pods in rendered.pods() {
            assert_eq!(
                pods.spec["securityContext"]["runAsNonRoot"], true,
                "{}",
                pods.workload
            );
            assert_eq!(
                pods.spec["automountServiceAccountToken"], false,
                "{}",
                pods.workload
            );
            for container in list(&pods.spec["containers"]) {
                let context = &container["securityContext"];
                assert_eq!(context["readOnlyRootFilesystem"], true, "{}", pods.workload);
                assert_eq!(
                    context["allowPrivilegeEscalation"], false,
                    "{}",
                    pods.workload
                );
                assert_eq!(
                    context["capabilities"]["drop"][0], "ALL",
                    "{}",
                    pods.workload
                );
            }
        }
    });
}
