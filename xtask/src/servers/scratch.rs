//! Where temporary servers keep their files, and who may reach them.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, bail};

use crate::process::Account;

/// The user Postgres runs as: `None` for ourselves, the packaged `postgres` user when we are root.
///
/// Errors: we are root and there is no such user.
pub(crate) fn postgres_account() -> Result<Option<Account>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let number = |which: &str| -> Option<u32> {
        let output = Command::new("id")
            .args([which, "postgres"])
            .stderr(Stdio::null())
            .output()
            .ok()?;
        String::from_utf8_lossy(&output.stdout).trim().parse().ok()
    };
    match (number("-u"), number("-g")) {
        (Some(uid), Some(gid)) => Ok(Some(Account { uid, gid })),
        _ => bail!(
            "Postgres refuses to run as root and this machine has no user `postgres`; \
             make one (useradd --system postgres) or run as another user"
        ),
    }
}

/// Makes `folder` (0700) and gives it to `account`.
pub(crate) fn make_owned(folder: &Path, account: Option<Account>) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    if let Some(account) = account {
        chown(folder, Some(account.uid), Some(account.gid))
            .with_context(|| format!("cannot give away {}", folder.display()))?;
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
        .with_context(|| format!("cannot protect {}", folder.display()))
}

/// Can `account` enter `folder`? Checked by trying: a parent may be closed to it.
pub(crate) fn can_enter(folder: &Path, account: Option<Account>) -> bool {
    use std::os::unix::process::CommandExt;

    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "cd \"$1\"", "sh"])
        .arg(folder)
        .current_dir("/");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Some(account) = account {
        command.uid(account.uid).gid(account.gid);
    }
    command.status().is_ok_and(|status| status.success())
}

/// The folder below which temporary servers live: `target/xtask` of this
/// checkout, or the machine's temporary folder if the Postgres user cannot get there.
pub fn scratch_root() -> Result<PathBuf> {
    // No such user: no Postgres of ours either, before its package is installed.
    let account = postgres_account().unwrap_or_default();
    let below_target = target_folder().join("xtask");
    if fs::create_dir_all(&below_target).is_ok() && can_enter(&below_target, account) {
        return Ok(below_target);
    }
    let elsewhere = env::temp_dir().join(format!("guildhall-{:016x}", checkout_hash()));
    fs::create_dir_all(&elsewhere)
        .with_context(|| format!("cannot make {}", elsewhere.display()))?;
    if let Some(account) = account
        && !can_enter(&elsewhere, Some(account))
    {
        bail!(
            "the user `postgres` can enter neither {} nor {}",
            below_target.display(),
            elsewhere.display()
        );
    }
    Ok(elsewhere)
}

/// A new folder below [`scratch_root`]; its name says which process made it.
pub(crate) fn scratch_folder(kind: &str) -> Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let root = scratch_root()?;
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = root.join(format!("{kind}-{}-{count}", std::process::id()));
        match fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot make {}", folder.display()));
            }
        }
    }
}

/// The repository's root.
pub(crate) fn checkout() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// cargo's target folder: the one this program was built into, as not only `CARGO_TARGET_DIR` but
/// anybody's cargo configuration may name another.
pub(crate) fn target_folder() -> PathBuf {
    let program = env::current_exe().unwrap_or_default();
    target_of(&program).unwrap_or_else(|| checkout().join("target"))
}

/// The folder around that of the profile a program was built with.
fn target_of(program: &Path) -> Option<PathBuf> {
    let mut folders = program.ancestors().skip(1);
    let profile =
        folders.find(|folder| folder.ends_with("debug") || folder.ends_with("release"))?;
    profile.parent().map(Path::to_owned)
}

/// Ends and removes what killed runs left below [`scratch_root`]: servers and folders of processes that are gone.
pub(crate) fn sweep() -> Result<()> {
    for entry in fs::read_dir(scratch_root()?)
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.split('-').nth(1).and_then(|pid| pid.parse().ok());
        if owner.is_some_and(|pid| !crate::process::exists(pid)) {
            for kind in ["postgres", "redis"] {
                let pid_file = entry.path().join(kind).with_extension("pid");
                crate::process::stop_leftover(
                    &pid_file,
                    crate::process::Signal::KILL,
                    Duration::ZERO,
                );
            }
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// Tells checkouts of one machine apart (FNV-1a of the path, stable over compilers).
pub(crate) fn checkout_hash() -> u64 {
    let path = checkout();
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_folder_is_the_one_that_holds_the_profile() {
        for (program, target) in [
            ("/src/target/debug/xtask", "/src/target"),
            ("/src/target/debug/deps/it-0123456789abcdef", "/src/target"),
            (
                "/debug/shared/aarch64-apple-darwin/release/xtask",
                "/debug/shared/aarch64-apple-darwin",
            ),
        ] {
            assert_eq!(target_of(Path::new(program)), Some(target.into()));
        }
        assert_eq!(target_of(Path::new("/usr/bin/xtask")), None);
    }
}
