//! Programs the machine lacks: installed with its package manager, or named.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context, Result, bail};

use crate::cargo;
use crate::process::in_path;
use crate::servers::{
    Binaries, POSTGRES_VARIABLE, REDIS_VARIABLE, checkout, target_folder, version,
};

/// Something we need from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Postgres,
    Redis,
    Node,
    Python,
    Browser,
}

impl Need {
    fn name(self) -> &'static str {
        match self {
            Self::Postgres => "Postgres 15 or later",
            Self::Redis => "Redis 7 or later (or Valkey)",
            Self::Node => "Node.js 18 or later with npm",
            Self::Python => "Python 3 with venv",
            Self::Browser => "Chromium or Chrome",
        }
    }

    /// What names one that is elsewhere, or that no package manager has, and what it names.
    fn variable(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Postgres => Some((POSTGRES_VARIABLE, "the folder of `postgres` and `initdb`")),
            Self::Redis => Some((REDIS_VARIABLE, "the server's program")),
            Self::Browser => Some((BROWSER_VARIABLE, "the browser's program")),
            Self::Node | Self::Python => None,
        }
    }
}

const BROWSER_VARIABLE: &str = "CHROMIUM";
const NODE_MIN: u32 = 18;

/// How a system installs packages.
struct Manager {
    program: &'static str,
    /// Run first, if the package lists may be missing.
    refresh: &'static [&'static str],
    install: &'static [&'static str],
    /// brew refuses root, the others require it.
    as_root: bool,
    package: fn(Need) -> &'static [&'static str],
}

const MANAGERS: &[Manager] = &[
    Manager {
        program: "apt-get",
        refresh: &["update", "-qq"],
        install: &["install", "-y", "-qq", "--no-install-recommends"],
        as_root: true,
        package: |need| match need {
            Need::Postgres => &["postgresql"],
            Need::Redis => &["redis-server"],
            Need::Node => &["nodejs", "npm"],
            Need::Python => &["python3", "python3-venv"],
            Need::Browser => &["chromium"],
        },
    },
    Manager {
        program: "dnf",
        refresh: &[],
        install: &["install", "-y"],
        as_root: true,
        package: |need| match need {
            Need::Postgres => &["postgresql-server", "postgresql-contrib"],
            Need::Redis => &["valkey"],
            Need::Node => &["nodejs", "npm"],
            Need::Python => &["python3"],
            Need::Browser => &["chromium"],
        },
    },
    Manager {
        program: "pacman",
        refresh: &[],
        install: &["-S", "--noconfirm", "--needed"],
        as_root: true,
        package: |need| match need {
            Need::Postgres => &["postgresql"],
            Need::Redis => &["valkey"],
            Need::Node => &["nodejs", "npm"],
            Need::Python => &["python"],
            Need::Browser => &["chromium"],
        },
    },
    Manager {
        program: "apk",
        refresh: &[],
        install: &["add"],
        as_root: true,
        package: |need| match need {
            Need::Postgres => &["postgresql"],
            Need::Redis => &["redis"],
            Need::Node => &["nodejs", "npm"],
            Need::Python => &["python3"],
            Need::Browser => &["chromium"],
        },
    },
    Manager {
        program: "brew",
        refresh: &[],
        install: &["install"],
        as_root: false,
        package: |need| match need {
            Need::Postgres => &["postgresql@17"],
            Need::Redis => &["valkey"],
            Need::Node => &["node"],
            Need::Python => &["python"],
            Need::Browser => &["chromium"],
        },
    },
];

/// Postgres and Redis, installed if need be.
///
/// Errors: what is missing cannot be installed from here; the text says what to run.
pub(crate) fn databases() -> Result<Binaries> {
    servers(true, true)?;
    Ok(Binaries {
        postgres: postgres()?,
        redis: redis()?,
    })
}

/// Those of the two that are wanted, together, so that what is missing is said once.
pub(crate) fn servers(postgres: bool, redis: bool) -> Result<()> {
    let missing = [
        (postgres && Binaries::find_postgres().is_none()).then_some(Need::Postgres),
        (redis && Binaries::find_redis().is_none()).then_some(Need::Redis),
    ];
    install(&missing.into_iter().flatten().collect::<Vec<_>>())
}

/// The folder of Postgres' programs.
pub(crate) fn postgres() -> Result<PathBuf> {
    servers(true, false)?;
    Binaries::find_postgres().with_context(|| still_missing(Need::Postgres))
}

/// The Redis or Valkey server.
pub(crate) fn redis() -> Result<PathBuf> {
    servers(false, true)?;
    Binaries::find_redis().with_context(|| still_missing(Need::Redis))
}

/// Node and npm, for the tests that run discord.js.
pub(crate) fn node() -> Result<()> {
    let missing = || {
        let node = in_path("node").and_then(|node| version(&node));
        node < Some(NODE_MIN) || in_path("npm").is_none()
    };
    if missing() {
        install(&[Need::Node])?;
        if missing() {
            bail!(still_missing(Need::Node));
        }
    }
    Ok(())
}

/// Chromium, for the test of the operators' page. `CHROMIUM` may name another.
pub(crate) fn browser() -> Result<()> {
    const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    let missing = || {
        env::var_os(BROWSER_VARIABLE).is_none() && NAMES.iter().all(|name| in_path(name).is_none())
    };
    if missing() {
        install(&[Need::Browser])?;
        if missing() {
            bail!(still_missing(Need::Browser));
        }
    }
    Ok(())
}

/// A Python for the tests that decode with it.
///
/// Errors: as [`python`].
pub fn decoders() -> Result<PathBuf> {
    let requirements = checkout().join("e2e/decoders/requirements.txt");
    let requirements = fs::read_to_string(&requirements)
        .with_context(|| format!("cannot read {}", requirements.display()))?;
    python("e2e-python", &requirements)
}

/// A Python in a folder of this name below `target`, which has the packages that are pinned;
/// made anew when those change or the folder was moved: programs in it name its path.
///
/// Errors: Python is missing and cannot be installed from here, or a package is.
pub(crate) fn python(name: &str, requirements: &str) -> Result<PathBuf> {
    let folder = target_folder().join(name);
    let program = folder.join("bin/python");
    let installed = folder.join("requirements.txt");
    let requirements = format!("# in {}\n{requirements}", folder.display());
    if fs::read_to_string(&installed).is_ok_and(|installed| installed == requirements) {
        return Ok(program);
    }
    let make = || {
        let mut command = Command::new("python3");
        command.args(["-m", "venv", "--clear"]).arg(&folder);
        command.stdin(Stdio::null());
        in_path("python3").is_some() && cargo::run(command).is_ok_and(|status| status.success())
    };
    println!("  installing Python packages in {}", folder.display());
    if !make() {
        // Debian's python3 cannot make one without a package of its own.
        install(&[Need::Python])?;
        if !make() {
            bail!(
                "python3 cannot make a virtual environment in {}",
                folder.display()
            );
        }
    }
    let wanted = folder.join("wanted.txt");
    fs::write(&wanted, &requirements)?;
    let mut command = Command::new(&program);
    command
        .args(["-m", "pip", "install", "--quiet"])
        .args(["--disable-pip-version-check", "-r"])
        .arg(&wanted)
        .stdin(Stdio::null());
    if !cargo::run(command)?.success() {
        bail!("pip could not install {requirements:?}");
    }
    fs::rename(&wanted, &installed)?;
    Ok(program)
}

fn install(needs: &[Need]) -> Result<()> {
    if needs.is_empty() {
        return Ok(());
    }
    for need in needs {
        if let Some((variable, what)) = need.variable()
            && let Some(value) = env::var_os(variable)
        {
            bail!(
                "{variable} is {}, which is not {what} of {}",
                value.display(),
                need.name()
            );
        }
    }
    let Some(manager) = MANAGERS
        .iter()
        .find(|manager| in_path(manager.program).is_some())
    else {
        bail!(
            "not found: {}; and no package manager known here: install that and try again{}",
            names(needs),
            elsewhere(needs)
        );
    };
    let Some(prefix) = privilege(manager) else {
        bail!(by_hand(needs, manager));
    };
    let packages = manager.packages(needs);
    println!(
        "  installing {} with {}",
        packages.join(", "),
        manager.program
    );
    if !manager.refresh.is_empty() {
        // Fails on a machine with one bad source; the installation then shows whether it mattered.
        cargo::run(command(prefix, manager, manager.refresh))?;
    }
    let mut command = command(prefix, manager, manager.install);
    command.args(&packages);
    if !cargo::run(command)?.success() {
        bail!(
            "{} could not install {}: install it otherwise{}",
            manager.program,
            packages.join(", "),
            elsewhere(needs)
        );
    }
    Ok(())
}

impl Manager {
    fn packages(&self, needs: &[Need]) -> Vec<&'static str> {
        let packages = needs.iter().flat_map(|need| (self.package)(*need));
        packages.copied().collect()
    }
}

fn names(needs: &[Need]) -> String {
    let names: Vec<&str> = needs.iter().map(|need| need.name()).collect();
    names.join(", ")
}

/// What to run where we may not install.
fn by_hand(needs: &[Need], manager: &Manager) -> String {
    let line = |arguments: &[&str]| format!("    sudo {} {}", manager.program, arguments.join(" "));
    let mut lines = Vec::new();
    if !manager.refresh.is_empty() {
        lines.push(line(manager.refresh));
    }
    let mut install = manager.install.to_vec();
    install.extend(manager.packages(needs));
    lines.push(line(&install));
    format!(
        "not found: {}; and installing needs root. Run\n\n{}\n\nand try again{}",
        names(needs),
        lines.join("\n"),
        elsewhere(needs),
    )
}

/// After an installation: what the package manager has is too old.
fn still_missing(need: Need) -> String {
    format!(
        "{} is still missing after its installation: install it otherwise{}",
        need.name(),
        elsewhere(&[need])
    )
}

/// The end of a message: what may name programs in other places.
fn elsewhere(needs: &[Need]) -> String {
    let variables = needs.iter().filter_map(|need| need.variable());
    variables
        .map(|(variable, what)| format!("; {variable} may name {what}"))
        .collect()
}

fn command(prefix: &[&str], manager: &Manager, arguments: &[&str]) -> Command {
    let mut words = prefix.iter().copied().chain([manager.program]);
    let mut command = Command::new(words.next().unwrap_or(manager.program));
    command.args(words).args(arguments);
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .current_dir(Path::new("/"))
        .stdin(Stdio::null());
    command
}

/// What to put before the package manager; `None`: it may not be used.
fn privilege(manager: &Manager) -> Option<&'static [&'static str]> {
    if !manager.as_root || rustix::process::geteuid().is_root() {
        return Some(&[]);
    }
    let sudo = Command::new("sudo")
        .args(["-n", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    sudo.is_ok_and(|status| status.success()).then_some(&[
        "sudo",
        "-n",
        "env",
        "DEBIAN_FRONTEND=noninteractive",
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_at_once_with_what_to_run() {
        let text = by_hand(&[Need::Postgres, Need::Redis], &MANAGERS[0]);
        assert_eq!(
            text,
            "not found: Postgres 15 or later, Redis 7 or later (or Valkey); and installing needs root. Run\n\
             \n    sudo apt-get update -qq\
             \n    sudo apt-get install -y -qq --no-install-recommends postgresql redis-server\n\
             \nand try again; GUILDHALL_PG_BIN may name the folder of `postgres` and `initdb`; \
             GUILDHALL_REDIS_BIN may name the server's program"
        );
    }
}
