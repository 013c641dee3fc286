//! A helper process of a scenario: commands go to its stdin, answers come from its stdout,
//! a line each. It ends when its stdin does, so nothing outlives the scenario.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::process::Process;

/// The parent's side.
#[derive(Debug)]
pub struct Helper {
    name: &'static str,
    process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Helper {
    /// Starts this same program with a subcommand.
    pub fn start(subcommand: &'static str) -> Result<Self> {
        let program = std::env::current_exe().context("this program has no path")?;
        let mut process = Command::new(program)
            .arg(subcommand)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {subcommand}"))?;
        let input = process.stdin.take().context("no stdin")?;
        let output = process.stdout.take().context("no stdout")?;
        Ok(Self {
            name: subcommand,
            process,
            input,
            output: BufReader::new(output).lines(),
        })
    }

    /// Sends one command.
    pub async fn tell(&mut self, command: &str) -> Result<()> {
        let line = format!("{command}\n");
        self.input
            .write_all(line.as_bytes())
            .await
            .with_context(|| format!("{} is gone", self.name))
    }

    /// The next answer, which must start with `word`; what follows it comes back.
    pub async fn hear(&mut self, word: &str, patience: Duration) -> Result<String> {
        let line = timeout(patience, self.output.next_line())
            .await
            .with_context(|| format!("{}: no `{word}` within {patience:?}", self.name))??;
        let line = line.with_context(|| format!("{} ended early", self.name))?;
        match line.strip_prefix(word) {
            Some(rest) => Ok(rest.trim().to_owned()),
            None => bail!("{}: {line}", self.name),
        }
    }

    /// Its CPU time and memory.
    pub fn usage(&self) -> Result<Process> {
        let pid = self.process.id();
        Ok(Process::new(
            pid.with_context(|| format!("{} ended early", self.name))?,
        ))
    }
}
