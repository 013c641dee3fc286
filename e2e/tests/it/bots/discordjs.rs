//! Runs the scripts in `e2e/discordjs`, installed from the lockfile, and reads their lines.

use std::{process::Stdio, time::Duration};

use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::{Diary, installed::from_npm};

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

pub(crate) async fn install() {
    from_npm(FOLDER).await;
}
