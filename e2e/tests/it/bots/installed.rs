//! Libraries of others, from the registries of their languages.

use std::{collections::BTreeSet, io, path::Path, time::SystemTime};

use tokio::{process::Command, sync::Mutex};

/// Folders that were looked at; one at a time is installed.
static DONE: Mutex<BTreeSet<String>> = Mutex::const_new(BTreeSet::new());

/// `npm ci` in a folder, unless what the lockfile asks for is there already.
pub(crate) async fn from_npm(folder: &str) {
    let mut done = DONE.lock().await;
    if !done.insert(folder.to_owned())
        || is_newer(
            folder,
            "node_modules/.package-lock.json",
            "package-lock.json",
        )
    {
        return;
    }
    run(folder, "npm", &["ci", "--no-audit", "--no-fund"]).await;
}

/// The Python of a virtual environment with what the folder's `requirements.txt` asks for.
pub(crate) async fn from_pip(folder: &str) -> String {
    let python = format!("{folder}/.venv/bin/python");
    let mut done = DONE.lock().await;
    if !done.insert(folder.to_owned()) || is_newer(folder, ".venv/installed", "requirements.txt") {
        return python;
    }
    run(folder, "python3", &["-m", "venv", ".venv"]).await;
    let asked = ["-m", "pip", "install", "--quiet", "-r", "requirements.txt"];
    run(folder, &python, &asked).await;
    std::fs::write(Path::new(folder).join(".venv/installed"), "").unwrap();
    python
}

fn is_newer(folder: &str, one: &str, than: &str) -> bool {
    let modified = |file: &str| -> io::Result<SystemTime> {
        Path::new(folder).join(file).metadata()?.modified()
    };
    let wanted = modified(than).unwrap();
    modified(one).is_ok_and(|installed| installed >= wanted)
}

async fn run(folder: &str, program: &str, arguments: &[&str]) {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .output()
        .await
        .expect("Python 3.10 or later, with venv and pip, and Node.js 18 or later with npm must be installed");
    assert!(
        output.status.success(),
        "{program} {arguments:?} failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
