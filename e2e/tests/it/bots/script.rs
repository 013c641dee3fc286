//! Scripts that end by themselves and say what happened, one JSON object a line.

use std::{process::Stdio, time::Duration};

use serde_json::Value;
use tokio::{io::copy, process::Command};

/// One that has not ended after this long is stuck.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a script said, and all that it wrote for whoever wonders.
///
/// # Panics
/// If it does not end, with what it wrote.
pub(super) async fn said(script: &mut Command) -> (Vec<Value>, String) {
    let mut script = script
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (mut text, mut errors) = (Vec::new(), Vec::new());
    let (mut out, mut err) = (script.stdout.take().unwrap(), script.stderr.take().unwrap());
    let ends = async {
        tokio::try_join!(copy(&mut out, &mut text), copy(&mut err, &mut errors)).unwrap();
        script.wait().await.unwrap();
    };
    let ended = tokio::time::timeout(PATIENCE, ends).await;
    let text = String::from_utf8_lossy(&text);
    let all = format!("{text}\n{}", String::from_utf8_lossy(&errors));
    assert!(ended.is_ok(), "the script does not end; it said\n{all}");
    let said = text.lines();
    let said = said.filter_map(|line| serde_json::from_str(line).ok());
    (said.collect(), all)
}
