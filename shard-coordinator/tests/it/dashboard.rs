//! The operators' page in a real browser, which `tests/dashboard/drive.mjs` uses as a person
//! would. Needs Node.js 18 and Chromium.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use guildhall_shared::operator::Scope;
use sqlx::PgPool;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::harness::{CLUSTER_KEY, TestCluster, token};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dashboard");
/// Names browsers of the family go by; `CHROMIUM` may name another.
const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

fn browser() -> PathBuf {
    if let Some(browser) = std::env::var_os("CHROMIUM") {
        return browser.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let mut files = BROWSERS
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    files
        .find(|file| file.is_file())
        .expect("Chromium is installed, or CHROMIUM names it")
}

/// `npm ci`, unless what the lockfile asks for is there already.
fn install() {
    let modified = |file: &str| Path::new(FOLDER).join(file).metadata()?.modified();
    let installed = modified("node_modules/.package-lock.json");
    let wanted = modified("package-lock.json").unwrap();
    if installed.is_ok_and(|installed| installed >= wanted) {
        return;
    }
    let output = Command::new("npm")
        .args(["ci", "--no-audit", "--no-fund"])
        .current_dir(FOLDER)
        .output()
        .expect("npm runs (Node.js 18 or later must be installed)");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "npm ci failed:\n{complaint}");
}

#[sqlx::test(migrations = "../migrations")]
async fn an_operator_drains_a_node_on_the_page(db: PgPool) {
    tokio::task::spawn_blocking(install).await.unwrap();
    let cluster = TestCluster::new(db, 0).await;
    let _gateways = cluster.start_gateways();
    let config = cluster.config("one");
    let origin = format!("http://{}", config.listen);
    let mut coordinator = Some(TestCluster::start(config.clone()));
    let mut person = tokio::process::Command::new("node")
        .arg("drive.mjs")
        .current_dir(FOLDER)
        .env("DASHBOARD_URL", origin)
        .env("OPERATE_TOKEN", token(CLUSTER_KEY, Scope::Operate))
        .env("READ_TOKEN", token(CLUSTER_KEY, Scope::Read))
        .env("CHROMIUM", browser())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("node runs (Node.js 18 or later must be installed)");
    let mut lines = BufReader::new(person.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        match line.as_str() {
            "stop" => coordinator.take().unwrap().stop().await,
            "start" => coordinator = Some(TestCluster::start(config.clone())),
            other => panic!("{other}"),
        }
    }
    let output = person.wait_with_output().await.unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    coordinator.unwrap().stop().await;
}
