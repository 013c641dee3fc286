//! `cargo xtask sqlx`: the description of every checked query, in `.sqlx`.
//!
//! Builds look only at `.sqlx`; this command makes it from the migrations and the
//! code, on a private Postgres, by letting every query macro ask that server.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cargo::{cargo, run_reading};
use crate::servers::{Postgres, checkout, random_secret, scratch_folder, sweep};
use crate::{install, wrapper};

/// File name → content.
type Queries = BTreeMap<String, String>;

/// Renews `.sqlx`, or with `check` compares it and changes nothing.
pub(crate) fn run(check: bool) -> Result<ExitCode> {
    sweep()?;
    let binaries = install::databases()?;
    let mut postgres = Postgres::temporary_with(&binaries, false, true)?;
    migrate(&postgres)?;
    let folder = scratch_folder("queries")?;
    let described = describe(&postgres.url("guildhall"), &folder).and_then(|()| read(&folder));
    let _ = fs::remove_dir_all(&folder);
    postgres.stop();
    let fresh = described?;
    let committed_folder = checkout().join(".sqlx");
    let committed = if committed_folder.exists() {
        read(&committed_folder)?
    } else {
        Queries::new()
    };

    let differences = differences(&committed, &fresh);
    if differences.is_empty() {
        println!(".sqlx is up to date: {} queries", fresh.len());
        return Ok(ExitCode::SUCCESS);
    }
    for line in &differences {
        println!("{line}");
    }
    if check {
        eprintln!(
            "error: .sqlx is stale in {} places; run `cargo xtask sqlx` and commit it",
            differences.len()
        );
        return Ok(ExitCode::FAILURE);
    }
    replace(&committed_folder, &committed, &fresh)?;
    println!(".sqlx renewed: {} queries", fresh.len());
    Ok(ExitCode::SUCCESS)
}

/// Applies `migrations/*.sql` in order. By psql: the API's own `migrate` cannot be
/// built before `.sqlx` exists.
fn migrate(postgres: &Postgres) -> Result<()> {
    let psql = postgres
        .program("psql")
        .context("this Postgres has no psql; install its client package")?;
    let folder = checkout().join("migrations");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|file| file.extension().is_some_and(|extension| extension == "sql"))
        .collect();
    files.sort();
    for file in files {
        let output = Command::new(&psql)
            .args([
                "--no-psqlrc",
                "--quiet",
                "--single-transaction",
                "--set=ON_ERROR_STOP=1",
                "--file",
            ])
            .arg(&file)
            .env("PGOPTIONS", "--client-min-messages=warning")
            .arg("--dbname")
            .arg(postgres.url("guildhall"))
            .stdin(Stdio::null())
            .output()
            .context("cannot run psql")?;
        if !output.status.success() {
            bail!(
                "{} fails:\n{}",
                file.display(),
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
    Ok(())
}

/// Lets every macro of every crate describe its query into `folder`.
///
/// Errors: code does not compile, a query is wrong, or cargo left a crate out.
fn describe(database_url: &str, folder: &Path) -> Result<()> {
    let packages = packages_with_queries()?;
    let mut command = cargo();
    command.args([
        "check",
        "--all-targets",
        "--message-format=json-render-diagnostics",
    ]);
    for package in &packages {
        command.args(["--package", package]);
    }
    let ourselves = std::env::current_exe().context("cannot find our own program")?;
    command
        .env("RUSTC_WORKSPACE_WRAPPER", ourselves)
        .env(wrapper::RUN_VARIABLE, random_secret()?)
        .env("SQLX_OFFLINE", "false")
        .env("SQLX_OFFLINE_DIR", folder)
        .env("DATABASE_URL", database_url)
        .stdin(Stdio::null());
    let mut checked = BTreeSet::new();
    let mut skipped = BTreeSet::new();
    let status = run_reading(command, |line| {
        let message: Value = serde_json::from_slice(line).unwrap_or_default();
        if message["reason"] == "compiler-artifact"
            && let Some(package) = message["manifest_path"]
                .as_str()
                .and_then(package_of_manifest)
            && packages.contains(&package)
        {
            // A build script is compiled without queries and may stay fresh.
            let is_build_script = message["target"]["kind"][0] == "custom-build";
            if message["fresh"] == true && !is_build_script {
                skipped.insert(package.clone());
            }
            checked.insert(package);
        }
        Ok(())
    })?;
    if !status.success() {
        bail!("cargo check against the migrated database failed");
    }
    if !skipped.is_empty() || checked.len() < packages.len() {
        bail!(
            "cargo did not check everything (fresh: {skipped:?}, checked: {checked:?} of {packages:?}); this is a bug of xtask"
        );
    }
    Ok(())
}

/// Members of the workspace that depend on sqlx.
fn packages_with_queries() -> Result<BTreeSet<String>> {
    let output = cargo()
        .args(["metadata", "--no-deps", "--format-version=1"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo metadata")?;
    let metadata: Value =
        serde_json::from_slice(&output.stdout).context("cannot read cargo metadata")?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata names no packages")?;
    Ok(packages
        .iter()
        .filter(|package| {
            package["dependencies"]
                .as_array()
                .is_some_and(|list| list.iter().any(|one| one["name"] == "sqlx"))
        })
        .filter_map(|package| package["name"].as_str().map(str::to_owned))
        .collect())
}

/// Name of the workspace member whose manifest this is.
fn package_of_manifest(manifest: &str) -> Option<String> {
    if !Path::new(manifest).starts_with(checkout()) {
        return None;
    }
    let text = fs::read_to_string(manifest).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("name = \""))?;
    line.strip_suffix('"').map(str::to_owned)
}

fn read(folder: &Path) -> Result<Queries> {
    let mut queries = Queries::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let entry = entry.with_context(|| format!("cannot read {}", folder.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("query-") && name.ends_with(".json") {
            let text =
                fs::read_to_string(entry.path()).with_context(|| format!("cannot read {name}"))?;
            queries.insert(name, text);
        }
    }
    Ok(queries)
}

/// One line per file that is missing, changed or left over.
fn differences(committed: &Queries, fresh: &Queries) -> Vec<String> {
    let line = |what: &str, name: &str, text: &str| {
        let query: Value = serde_json::from_str(text).unwrap_or_default();
        let query = query["query"]
            .as_str()
            .unwrap_or_default()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        let shown: String = query.chars().take(80).collect();
        format!("  {what:9} .sqlx/{name}  {shown}")
    };
    let mut lines = Vec::new();
    for (name, text) in fresh {
        match committed.get(name) {
            None => lines.push(line("missing", name, text)),
            Some(old) if old != text => lines.push(line("outdated", name, text)),
            Some(_) => {}
        }
    }
    let unused = committed
        .iter()
        .filter(|(name, _)| !fresh.contains_key(*name));
    lines.extend(unused.map(|(name, text)| line("unused", name, text)));
    lines
}

fn replace(folder: &Path, committed: &Queries, fresh: &Queries) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, text) in fresh {
        if committed.get(name) != Some(text) {
            fs::write(folder.join(name), text).with_context(|| format!("cannot write {name}"))?;
        }
    }
    for name in committed.keys().filter(|name| !fresh.contains_key(*name)) {
        fs::remove_file(folder.join(name)).with_context(|| format!("cannot remove {name}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_files_are_named_with_their_query() {
        let query = |text: &str| format!("{{\"query\":\"{text}\"}}");
        let committed = Queries::from([
            ("a".into(), query("select 1")),
            ("b".into(), query("select 2")),
        ]);
        let fresh = Queries::from([
            ("b".into(), query("select  3")),
            ("c".into(), query("select 4")),
        ]);
        let lines = differences(&committed, &fresh).join("\n");
        assert!(lines.contains("outdated  .sqlx/b  select 3"), "{lines}");
        assert!(lines.contains("missing   .sqlx/c  select 4"), "{lines}");
        assert!(lines.contains("unused    .sqlx/a  select 1"), "{lines}");
        assert!(differences(&fresh, &fresh).is_empty());
    }
}
