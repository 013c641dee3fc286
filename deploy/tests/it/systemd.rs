//! The units: what they start and set exists, and systemd takes them.

use std::{collections::BTreeSet, fs, path::PathBuf};

use deploy::{
    checkout,
    settings::{Program, programs},
};
use regex::Regex;

use crate::{read, stop_seconds, success, tool};

const BIN: &str = "/opt/guildhall/bin/";

fn units() -> Vec<(PathBuf, String)> {
    let folder = checkout().join("deploy/systemd");
    let files = fs::read_dir(folder).expect("the folder of units");
    let units = files.map(|file| {
        let file = file.expect("a file of it").path();
        let text = fs::read_to_string(&file).expect("a unit");
        (file, text)
    });
    units.collect()
}

#[test]
fn units_start_our_programs_with_settings_that_they_have() {
    let start = Regex::new(r"(?m)^ExecStart=/opt/guildhall/bin/(\S+)").unwrap();
    let variable = Regex::new(r"(?m)^Environment=([A-Z0-9_]+)=").unwrap();
    let units = units();
    assert_eq!(units.len(), 3);
    for (file, text) in units {
        let name = &start.captures(&text).expect("it starts one of ours")[1];
        let programs = programs();
        let program = programs.iter().find(|program| program.name == name);
        let known = program
            .unwrap_or_else(|| panic!("{name} is no program"))
            .variables();
        for found in variable.captures_iter(&text) {
            assert!(known.contains(&found[1]), "{}: {found:?}", file.display());
        }
    }
}

#[test]
fn the_guide_fills_the_files_of_units_with_settings_that_exist() {
    let guide = read("deploy/README.md");
    let (_, guide) = guide.split_once("\n## systemd\n").expect("a chapter");
    let known: BTreeSet<String> = programs().iter().flat_map(Program::variables).collect();
    let setting = Regex::new("`([A-Z][A-Z0-9_]+)=").unwrap();
    let mut told = 0;
    for found in setting.captures_iter(guide) {
        assert!(known.contains(&found[1]), "{}", &found[1]);
        told += 1;
    }
    assert!(told > 8, "{told}");
    for (file, text) in units() {
        for line in text.lines() {
            let Some(path) = line.strip_prefix("Documentation=file:///opt/guildhall/") else {
                continue;
            };
            let page = checkout().join(path);
            assert!(page.is_file(), "{}: {path}", file.display());
            assert!(guide.contains("-t /opt/guildhall/docs docs/*.md"));
        }
    }
}

#[test]
fn the_unit_of_the_api_keeps_what_operators_ask_from_the_public() {
    let unit = read("deploy/systemd/guildhall-api.service");
    let internal = Regex::new(r"(?m)^Environment=API_INTERNAL_LISTEN=(127\.0\.0\.1:\d+)$").unwrap();
    let internal = &internal.captures(&unit).expect("an address of loopback")[1];
    let guide = read("deploy/README.md");
    assert!(guide.contains(&format!("`{internal}`")));
    let leads = Regex::new("reverse_proxy (.+)").unwrap();
    let leads: Vec<&str> = leads
        .find_iter(&guide)
        .map(|found| found.as_str())
        .collect();
    assert!(!leads.is_empty() && leads.iter().all(|to| !to.contains(internal)));
}

#[test]
fn units_have_the_time_that_they_need() {
    let start = Regex::new(r"(?m)^ExecStart=/opt/guildhall/bin/(\S+)").unwrap();
    let stop = Regex::new(r"(?m)^TimeoutStopSec=(\d+)$").unwrap();
    for (file, text) in units() {
        let file = file.display();
        let seconds: u64 = stop.captures(&text).expect("a time")[1].parse().unwrap();
        let name = &start.captures(&text).expect("it starts one of ours")[1];
        assert!(seconds >= stop_seconds(name, None), "{file}: {seconds} s");
        // What comes first counts as part of the start, which else may take 90 s.
        let migrates = text.contains("\nExecStartPre=");
        let waits = text.contains("\nTimeoutStartSec=infinity\n");
        assert!(!migrates || waits, "{file}");
    }
}

#[test]
fn systemd_takes_the_units() {
    let folder = tempfile::tempdir().unwrap();
    let program = Regex::new(&format!("{BIN}[a-z-]+")).unwrap();
    for (file, text) in units() {
        let name = file.file_name().unwrap().to_str().unwrap();
        // Ours are not installed where tests run; an instance has a name.
        let copy = folder.path().join(name.replace('@', "@1"));
        fs::write(&copy, &*program.replace_all(&text, "/bin/true")).unwrap();
        let copy = copy.to_str().expect("a plain path");
        if let Some(output) = tool("systemd-analyze", &["verify", copy], "deploy") {
            success(&output);
        }
    }
}
