//! What a process used, as the kernel accounts it: CPU time, and memory of its own.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context, Result};

/// A process of this machine.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    pid: u32,
}

impl Process {
    pub fn new(pid: u32) -> Self {
        Self { pid }
    }

    /// User and system time of all threads so far, in steps of a clock tick (10 ms).
    pub fn cpu(self) -> Result<Duration> {
        Ok(stat(Path::new(&format!("/proc/{}/stat", self.pid)))?.1)
    }

    /// What its ended children used, of those it has waited for.
    pub fn cpu_of_ended_children(self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.pid);
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let ticks = rustix::param::clock_ticks_per_second();
        let (_, _, children) = parse_stat(&text, ticks).context("no proc(5) stat")?;
        Ok(children)
    }

    /// [`Process::cpu`] of this process and all that descend from it: a server that works in
    /// processes of its own. What its ended children used counts, too.
    pub fn cpu_of_tree(self) -> Result<Duration> {
        let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for entry in fs::read_dir("/proc")? {
            let Ok(pid) = entry?.file_name().to_string_lossy().parse() else {
                continue;
            };
            // A process may end while we look.
            if let Ok(text) = fs::read_to_string(format!("/proc/{pid}/stat"))
                && let Some(parent) = parse_parent(&text)
            {
                children.entry(parent).or_default().push(pid);
            }
        }
        let mut total = self.cpu()? + self.cpu_of_ended_children()?;
        let mut left = children.remove(&self.pid).unwrap_or_default();
        while let Some(pid) = left.pop() {
            total += Self::new(pid).cpu().unwrap_or_default();
            left.extend(children.remove(&pid).unwrap_or_default());
        }
        Ok(total)
    }

    /// [`Process::cpu`] by thread name.
    pub fn cpu_by_thread(self) -> Result<BTreeMap<String, Duration>> {
        let mut threads: BTreeMap<String, Duration> = BTreeMap::new();
        let folder = format!("/proc/{}/task", self.pid);
        for thread in fs::read_dir(&folder).with_context(|| folder.clone())? {
            // A thread may end while we look.
            if let Ok((name, cpu)) = stat(&thread?.path().join("stat")) {
                *threads.entry(name).or_default() += cpu;
            }
        }
        Ok(threads)
    }

    /// Resident anonymous memory, bytes: heap and stacks; neither code nor socket buffers.
    pub fn anonymous_bytes(self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid);
        let status = fs::read_to_string(&path).with_context(|| path.clone())?;
        let kilobytes = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .and_then(|rest| rest.trim().strip_suffix("kB"))
            .and_then(|number| number.trim().parse::<u64>().ok())
            .with_context(|| format!("{path}: no RssAnon"))?;
        Ok(kilobytes * 1024)
    }
}

/// Name and CPU time of a process or thread from its `stat` file.
fn stat(path: &Path) -> Result<(String, Duration)> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let (name, cpu, _) = parse_stat(&text, rustix::param::clock_ticks_per_second())
        .with_context(|| format!("{}: not as proc(5) says", path.display()))?;
    Ok((name, cpu))
}

/// Name, CPU time, and that of ended children.
fn parse_stat(text: &str, ticks_per_s: u64) -> Option<(String, Duration, Duration)> {
    // The name is in parentheses and may hold any character.
    let (head, rest) = text.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let mut user_and_system = || {
        let user: u64 = fields.next()?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        let nanos = (user + system) * (1_000_000_000 / ticks_per_s);
        Some(Duration::from_nanos(nanos))
    };
    Some((name.to_owned(), user_and_system()?, user_and_system()?))
}

/// The parent's id in a `stat` file.
fn parse_parent(text: &str) -> Option<u32> {
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// How many of `wanted` sessions a process may hold, `spare` files of it being for other things:
/// fewer if `ulimit -n` says so, which is printed.
pub fn sessions_for(wanted: usize, spare: u64) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let room = limit.current.map_or(usize::MAX, |files| {
        usize::try_from(files.saturating_sub(spare)).unwrap_or(usize::MAX)
    });
    if room < wanted {
        println!(
            "{room} sessions instead of {wanted}: `ulimit -n` is {}; raise it before for all",
            room as u64 + spare
        );
    }
    wanted.min(room)
}

/// Processors and kernel of this machine, for the head of a report.
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, |cores| cores.get());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let model = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("processor not named", |rest| {
            rest.trim_start_matches([' ', '\t', ':'])
        });
    format!("{cores} cores, {model}, Linux {}", kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_parentheses() {
        let text = "7 (a (b) c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 4 3 20 0 3 0 100 1 1";
        assert_eq!(
            parse_stat(text, 100),
            Some((
                "a (b) c".to_owned(),
                Duration::from_secs(2),
                Duration::from_millis(70)
            ))
        );
        assert_eq!(parse_stat("7 (a", 100), None);
        assert_eq!(parse_parent(text), Some(1));
    }

    #[test]
    fn this_process_uses_something() {
        let own = Process::new(std::process::id());
        assert!(own.anonymous_bytes().unwrap() > 0);
        assert!(!own.cpu_by_thread().unwrap().is_empty());
        own.cpu().unwrap();
    }
}
