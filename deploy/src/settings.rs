//! Every setting of every program, from the programs' own command lines.

use std::{collections::BTreeSet, fmt::Write as _};

use clap::{Arg, Command, CommandFactory};

/// The page, below the root of the repository.
pub const FILE: &str = "docs/settings.md";

/// Read by all programs, and by none through its command line alone.
const LOG_FILTER: &str = "RUST_LOG";

const HEAD: &str = "\
# Settings

Made from the programs' own command lines by `cargo run -p deploy`; do not edit. [`.env.example`](../.env.example)
has the same settings with examples, ready to be copied; [`operations.md`](operations.md) says which matter.

A setting is an environment variable, or the option of the same meaning (`<program> --help`). A wrong value stops
the start and is named. `RUST_LOG` chooses what is logged: a level, or targets with levels
(`info,guildhall_gateway=debug`); `info` if it is not set.
";

/// A program and its settings.
#[derive(Debug)]
pub struct Program {
    /// Name of the binary.
    pub name: &'static str,
    command: Command,
}

/// All programs that run for long.
pub fn programs() -> Vec<Program> {
    let of = |name, command| Program { name, command };
    vec![
        of("guildhall-api", guildhall_api::cli::Cli::command()),
        of(
            "guildhall-gateway",
            guildhall_gateway::config::Config::command(),
        ),
        of("shard-coordinator", shard_coordinator::Cli::command()),
    ]
}

impl Program {
    /// Names of its environment variables.
    pub fn variables(&self) -> BTreeSet<String> {
        let names = self.settings().into_iter().filter_map(name);
        names.chain([LOG_FILTER.to_owned()]).collect()
    }

    /// What a variable is without being set; `None` if nothing.
    pub fn default_of(&self, variable: &str) -> Option<String> {
        let settings = self.settings();
        let setting = settings
            .into_iter()
            .find(|arg| name(arg).as_deref() == Some(variable));
        setting.and_then(default)
    }

    /// What it says where one of its secrets is `value` and all else is missing: of each secret that
    /// it, or one of its subcommands, takes.
    pub fn refusals_of_secrets(&self, value: &str) -> Vec<String> {
        let mut refusals = Vec::new();
        let subcommands = self.command.get_subcommands().map(Some);
        for subcommand in subcommands.chain([None]) {
            let arguments = subcommand.unwrap_or(&self.command).get_arguments();
            let secrets = arguments.filter(|arg| arg.is_hide_env_values_set());
            for secret in secrets.filter_map(Arg::get_long) {
                let mut words = vec![self.name.to_owned()];
                words.extend(subcommand.map(|command| command.get_name().to_owned()));
                words.push(format!("--{secret}={value}"));
                let parsed = self.command.clone().try_get_matches_from(words);
                refusals.extend(parsed.err().map(|error| error.to_string()));
            }
        }
        refusals
    }

    /// What it reads from the environment when it serves.
    fn settings(&self) -> Vec<&Arg> {
        let serve = self.command.find_subcommand("serve");
        let own = self.command.get_arguments();
        let serve = serve.into_iter().flat_map(Command::get_arguments);
        own.chain(serve)
            .filter(|arg| arg.get_env().is_some())
            .collect()
    }
}

/// The whole page.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    for program in programs() {
        let _ = write!(
            page,
            "\n## {}\n\n| setting | default | what it is |\n|---|---|---|\n",
            program.name
        );
        for arg in program.settings() {
            let default = match default(arg) {
                Some(value) => format!("`{value}`"),
                None if arg.is_required_set() => "must be set".to_owned(),
                None => "–".to_owned(),
            };
            let name = name(arg).unwrap_or_default();
            let _ = writeln!(page, "| `{name}` | {default} | {} |", meaning(arg));
        }
    }
    page
}

fn name(arg: &Arg) -> Option<String> {
    Some(arg.get_env()?.to_string_lossy().into_owned())
}

fn default(arg: &Arg) -> Option<String> {
    let values = arg.get_default_values().iter();
    let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
    let is_switch = !arg.get_action().takes_values();
    match values.is_empty() {
        false => Some(values.join(",")),
        true if is_switch => Some("false".to_owned()),
        true => None,
    }
}

/// Its help, as one line, with the values it may have.
fn meaning(arg: &Arg) -> String {
    let help = arg.get_long_help().or(arg.get_help());
    let help = help.map(ToString::to_string).unwrap_or_default();
    let mut help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    if !help.ends_with('.') {
        help.push('.');
    }
    let values: Vec<String> = arg
        .get_possible_values()
        .iter()
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    if !values.is_empty() {
        let _ = write!(help, " One of {}.", values.join(", "));
    }
    help.replace('|', "\\|")
}
