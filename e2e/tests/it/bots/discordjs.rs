//! Runs the scripts in `e2e/discordjs`, installed from the lockfile, and reads their lines.

use std::{path::Path, process::Stdio, time::Duration};

use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::OnceCell,
};

use super::Diary;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/discordjs");

pub(super) struct Bot(Child);

impl Bot {
    /// Closing its stdin stops it.
    pub(super) async fn stop(mut self) {
        const GRACE: Duration = Duration::from_secs(10);
        drop(self.0.stdin.take());
        let _ = tokio::time::timeout(GRACE, self.0.wait()).await; // killed on drop
    }
}

/// `script`: a file of the folder.
pub(super) async fn start(script: &str, origin: &str, token: &str, diary: Diary) -> Bot {
    install().await;
    let mut child = Command::new("node")
        .arg(script)
        .current_dir(FOLDER)
        .env("API_ORIGIN", origin)
        .env("BOT_TOKEN", token)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("node runs (Node.js 18 or later must be installed)");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            let entry = serde_json::from_str(&line);
            diary.note(entry.unwrap_or_else(|_| json!({"event": "error", "message": line})));
        }
    });
    Bot(child)
}

/// `npm ci`, unless what the lockfile asks for is there already.
pub(crate) async fn install() {
    static DONE: OnceCell<()> = OnceCell::const_new();
    DONE.get_or_init(|| async {
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
            .await
            .expect("npm runs (Node.js 18 or later must be installed)");
        assert!(
            output.status.success(),
            "npm ci failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    })
    .await;
}
