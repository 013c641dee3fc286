//! The command line.

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use guildhall_shared::id::{Id, marker::Guild};
use guildhall_shared::operator::{
    Change, DRAIN_OVER_S_DEFAULT, DRAIN_OVER_S_MAX, HISTORY_MAX, HOT_MAX, Scope, WEIGHT,
};
use guildhall_shared::shard::ShardId;
use reqwest::Url;

const ENVIRONMENT: &str = "\
Environment:
  GUILDCTL_URL     coordinators, as --url
  GUILDCTL_TOKEN   a token, as `guildctl token` prints
  CLUSTER_KEY      used to make a token if GUILDCTL_TOKEN is not set

Exit codes:
  0  done
  1  refused or failed
  2  wrong usage
  3  no coordinator was reached

Examples:
  guildctl nodes
  guildctl drain gateway-3 --over 5m --wait
  guildctl plan --drain gateway-3 --weight gateway-4=2
  guildctl apply 17 --wait";

/// Looks at a Guildhall cluster and steers it, through its coordinators
#[derive(Debug, Parser)]
#[command(name = "guildctl", version, after_help = ENVIRONMENT)]
pub(crate) struct Cli {
    /// Coordinators, separated by commas; the next is asked when one does not answer
    #[arg(long, env = "GUILDCTL_URL", global = true, value_delimiter = ',',
          default_value = "http://127.0.0.1:8090", value_parser = coordinator)]
    pub(crate) url: Vec<Url>,

    /// Print JSON, one value a line
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Read(Read),
    #[command(flatten)]
    Change(Order),
    /// Say what changes would lead to; changes nothing
    #[command(
        after_help = "Changes are made in the order of the list above, whatever the order of the flags.\n\nExamples:\n  guildctl plan --drain gateway-3\n  guildctl plan --weight gateway-1=2 --pin 17=gateway-1 --cordon gateway-2"
    )]
    Plan(PlanArgs),
    /// Carry out a plan that was made before
    #[command(after_help = "Examples:\n  guildctl apply 17\n  guildctl apply 17 --yes --wait")]
    Apply(ApplyArgs),
    /// Watch the cluster live; q quits
    #[command(
        after_help = "Keys:\n  n s d h b l  sort nodes by name, sessions, dispatches, shards, busy, lag\n  r            turn the order round\n  q            quit\n\nExamples:\n  guildctl top\n  guildctl top --json --count 1"
    )]
    Top(TopArgs),
    /// Print a token, made from CLUSTER_KEY; asks no coordinator
    #[command(
        after_help = "Examples:\n  guildctl token --scope read --for 8h --name alice\n  export GUILDCTL_TOKEN=$(guildctl token --scope operate --name alice)"
    )]
    Token(TokenArgs),
    /// Print a script that completes commands in a shell
    #[command(
        after_help = "Examples:\n  guildctl completions bash > /etc/bash_completion.d/guildctl"
    )]
    Completions { shell: clap_complete::Shell },
}

/// Commands that change nothing.
#[derive(Debug, Subcommand)]
pub(crate) enum Read {
    /// Print the gateways: what is set for them and how loaded they are
    #[command(
        after_help = "Examples:\n  guildctl nodes\n  guildctl nodes --json | jq '.nodes[].id'"
    )]
    Nodes,
    /// Print the map's version, and how even it is
    #[command(after_help = "Examples:\n  guildctl map\n  guildctl map --shards")]
    Map {
        /// Every shard with its owner and standby
        #[arg(long)]
        shards: bool,
    },
    /// Print the busiest shards
    #[command(after_help = "Examples:\n  guildctl shards --hot 5")]
    Shards {
        /// How many
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=HOT_MAX as i64))]
        hot: u32,
    },
    /// Print the busiest guilds
    #[command(after_help = "Examples:\n  guildctl guilds --hot 5")]
    Guilds {
        /// How many
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=HOT_MAX as i64))]
        hot: u32,
    },
    /// Say where a guild is served, and why there
    #[command(after_help = "Examples:\n  guildctl why 1180000000000000002")]
    Why {
        #[arg(value_parser = guild)]
        guild: Id<Guild>,
    },
    /// Print who did what, newest first
    #[command(
        after_help = "Examples:\n  guildctl history --limit 10\n  guildctl history --before 120"
    )]
    History {
        /// Only entries before this one
        #[arg(long, value_name = "ID")]
        before: Option<i64>,
        /// How many
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=i64::from(HISTORY_MAX)))]
        limit: u32,
    },
    /// Print what is under way: the plan that runs, single moves, progress
    #[command(after_help = "Examples:\n  guildctl moves")]
    Moves,
}

/// Commands that change something at once.
#[derive(Debug, Subcommand)]
pub(crate) enum Order {
    /// Let a node keep what it has and give it nothing new
    #[command(after_help = "Examples:\n  guildctl cordon gateway-3")]
    Cordon {
        node: String,
        #[command(flatten)]
        consent: Consent,
    },
    /// Let a cordoned node take shards again
    #[command(after_help = "Examples:\n  guildctl uncordon gateway-3")]
    Uncordon {
        node: String,
        #[command(flatten)]
        consent: Consent,
    },
    /// Move a node's shards away and send its sessions to other nodes
    #[command(
        after_help = "With --wait it returns when the node is empty; stopping it (Ctrl-C) stops the watching, not the drain.\n\nExamples:\n  guildctl drain gateway-3 --over 5m --wait\n  guildctl drain gateway-3 --dry-run"
    )]
    Drain {
        node: String,
        /// Time its sessions leave over, as in 90s, 5m, 1h
        #[arg(long, default_value = "60s", value_parser = drain_over)]
        over: Duration,
        /// Return when the node is empty
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        consent: Consent,
    },
    /// Let a draining node take shards and sessions again
    #[command(after_help = "Examples:\n  guildctl undrain gateway-3")]
    Undrain {
        node: String,
        #[command(flatten)]
        consent: Consent,
    },
    /// Set a node's share of the shards against other nodes; 1 is usual
    #[command(after_help = "Examples:\n  guildctl weight gateway-1 2")]
    Weight {
        node: String,
        #[arg(value_parser = weight)]
        weight: f64,
        #[command(flatten)]
        consent: Consent,
    },
    /// Tie a shard to a node
    #[command(after_help = "Examples:\n  guildctl pin 17 gateway-1")]
    Pin {
        #[arg(value_parser = shard)]
        shard: ShardId,
        node: String,
        #[command(flatten)]
        consent: Consent,
    },
    /// Untie a shard
    #[command(after_help = "Examples:\n  guildctl unpin 17")]
    Unpin {
        #[arg(value_parser = shard)]
        shard: ShardId,
        #[command(flatten)]
        consent: Consent,
    },
    /// Move shards, or the shard of a guild, once
    #[command(
        after_help = "Examples:\n  guildctl move 17 18 --to gateway-1\n  guildctl move --guild 1180000000000000002 --to gateway-1"
    )]
    Move {
        #[arg(value_parser = shard, required_unless_present = "guild")]
        shards: Vec<ShardId>,
        /// The shard of this guild
        #[arg(long, value_parser = guild, conflicts_with = "shards")]
        guild: Option<Id<Guild>>,
        /// Where to
        #[arg(long, value_name = "NODE")]
        to: String,
        #[command(flatten)]
        consent: Consent,
    },
    /// Stop all moves but those of shards whose owner is gone
    #[command(after_help = "Examples:\n  guildctl pause")]
    Pause,
    /// Let moves go on
    #[command(after_help = "Examples:\n  guildctl resume")]
    Resume,
    /// End the plan that runs and the single moves; what has moved stays
    #[command(after_help = "Examples:\n  guildctl abort --yes")]
    Abort {
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// Whether to ask, and whether to do anything at all.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Consent {
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Make a plan of it and print that; change nothing
    #[arg(long, conflicts_with = "yes")]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) changes: ChangeArgs,
}

/// Changes of a plan, in the order they are made.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct ChangeArgs {
    #[arg(long, value_name = "NODE")]
    cordon: Vec<String>,
    #[arg(long, value_name = "NODE")]
    uncordon: Vec<String>,
    #[arg(long, value_name = "NODE")]
    undrain: Vec<String>,
    #[arg(long, value_name = "NODE=WEIGHT", value_parser = node_weight)]
    weight: Vec<Change>,
    #[arg(long, value_name = "SHARD", value_parser = shard)]
    unpin: Vec<ShardId>,
    #[arg(long, value_name = "SHARD=NODE", value_parser = shard_node)]
    pin: Vec<Change>,
    /// With the time its sessions leave over, 60s unless given
    #[arg(long, value_name = "NODE[=TIME]", value_parser = node_drain)]
    drain: Vec<Change>,
    /// Several shards are separated by commas
    #[arg(long = "move", value_name = "SHARDS=NODE", value_parser = shards_node)]
    moves: Vec<Change>,
    /// The shard of a guild
    #[arg(long, value_name = "GUILD=NODE", value_parser = guild_node)]
    move_guild: Vec<Change>,
}

impl ChangeArgs {
    pub(crate) fn into_changes(self) -> Vec<Change> {
        let mut changes = Vec::new();
        changes.extend(self.cordon.into_iter().map(|node| Change::Cordon { node }));
        changes.extend(
            self.uncordon
                .into_iter()
                .map(|node| Change::Uncordon { node }),
        );
        changes.extend(
            self.undrain
                .into_iter()
                .map(|node| Change::Undrain { node }),
        );
        changes.extend(self.weight);
        changes.extend(self.unpin.into_iter().map(|shard| Change::Unpin { shard }));
        changes.extend(self.pin);
        changes.extend(self.drain);
        changes.extend(self.moves);
        changes.extend(self.move_guild);
        changes
    }
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// The plan's number
    pub(crate) plan: i64,
    /// Return when the plan is done
    #[arg(long)]
    pub(crate) wait: bool,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// With --json: end after so many snapshots
    #[arg(long, requires = "json", value_name = "N")]
    pub(crate) count: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// What it allows
    #[arg(long, value_enum, default_value_t = TokenScope::Read)]
    pub(crate) scope: TokenScope,
    /// How long it is valid, as in 30m; at most 12h
    #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = duration)]
    pub(crate) lifetime: Duration,
    /// Whose it is, as the history will say
    #[arg(long)]
    pub(crate) name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TokenScope {
    /// See everything
    Read,
    /// See and change everything
    Operate,
}

impl From<TokenScope> for Scope {
    fn from(scope: TokenScope) -> Self {
        match scope {
            TokenScope::Read => Self::Read,
            TokenScope::Operate => Self::Operate,
        }
    }
}

fn coordinator(text: &str) -> Result<Url, String> {
    let url: Url = text.trim().parse().map_err(|error| format!("{error}"))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        _ => Err("it starts with http:// or https://".to_owned()),
    }
}

/// `90s`, `5m`, `1h`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit_s = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err("a time is written as 90s, 5m or 1h".to_owned()),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "a time is written as 90s, 5m or 1h".to_owned())?;
    let seconds = number.checked_mul(unit_s).ok_or("too long")?;
    Ok(Duration::from_secs(seconds))
}

fn drain_over(text: &str) -> Result<Duration, String> {
    let over = duration(text)?;
    if over.as_secs() > u64::from(DRAIN_OVER_S_MAX) {
        return Err(format!("at most {}h", DRAIN_OVER_S_MAX / 3_600));
    }
    Ok(over)
}

/// Seconds of a drain, which [`drain_over`] has bounded.
pub(crate) fn over_s(over: Duration) -> u32 {
    u32::try_from(over.as_secs()).unwrap_or(DRAIN_OVER_S_MAX)
}

fn weight(text: &str) -> Result<f64, String> {
    let weight: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if !WEIGHT.contains(&weight) {
        return Err(format!("from {} to {}", WEIGHT.start(), WEIGHT.end()));
    }
    Ok(weight)
}

fn shard(text: &str) -> Result<ShardId, String> {
    text.parse()
        .map(ShardId)
        .map_err(|_| "a shard is a number".to_owned())
}

fn guild(text: &str) -> Result<Id<Guild>, String> {
    text.parse()
        .map_err(|_| "a guild's id is a number above 0".to_owned())
}

fn pair(text: &str) -> Result<(&str, &str), String> {
    match text.split_once('=') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() => Ok((left, right)),
        _ => Err("two parts with = between them".to_owned()),
    }
}

fn node_weight(text: &str) -> Result<Change, String> {
    let (node, number) = pair(text)?;
    let (node, weight) = (node.to_owned(), weight(number)?);
    Ok(Change::Weight { node, weight })
}

fn shard_node(text: &str) -> Result<Change, String> {
    let (number, node) = pair(text)?;
    let (shard, node) = (shard(number)?, node.to_owned());
    Ok(Change::Pin { shard, node })
}

fn node_drain(text: &str) -> Result<Change, String> {
    if !text.contains('=') {
        let (node, over_s) = (text.to_owned(), DRAIN_OVER_S_DEFAULT);
        return Ok(Change::Drain { node, over_s });
    }
    let (node, over) = pair(text)?;
    let (node, over_s) = (node.to_owned(), over_s(drain_over(over)?));
    Ok(Change::Drain { node, over_s })
}

fn shards_node(text: &str) -> Result<Change, String> {
    let (numbers, to) = pair(text)?;
    let shards = numbers.split(',').map(shard).collect::<Result<_, _>>()?;
    let (guild, to) = (None, to.to_owned());
    Ok(Change::Move { shards, guild, to })
}

fn guild_node(text: &str) -> Result<Change, String> {
    let (id, to) = pair(text)?;
    let (shards, guild, to) = (Vec::new(), Some(guild(id)?), to.to_owned());
    Ok(Change::Move { shards, guild, to })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_of_a_plan_become_changes() {
        let line = "guildctl plan --drain a=5m --weight b=2 --pin 7=c --move 1,2=c --drain d";
        let Command::Plan(plan) = parse(line).unwrap().command else {
            panic!("not a plan");
        };
        let node = |name: &str| name.to_owned();
        let expected = [
            Change::Weight {
                node: node("b"),
                weight: 2.0,
            },
            Change::Pin {
                shard: ShardId(7),
                node: node("c"),
            },
            Change::Drain {
                node: node("a"),
                over_s: 300,
            },
            Change::Drain {
                node: node("d"),
                over_s: 60,
            },
            Change::Move {
                shards: vec![ShardId(1), ShardId(2)],
                guild: None,
                to: node("c"),
            },
        ];
        assert_eq!(plan.changes.into_changes(), expected);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "guildctl plan",
            "guildctl move --to a",
            "guildctl move 1 --guild 2 --to a",
            "guildctl weight a 0",
            "guildctl weight a NaN",
            "guildctl pin x a",
            "guildctl drain a --over 5d",
            "guildctl drain a --over 25h",
            "guildctl drain a --over 99999999999999999999h",
            "guildctl plan --weight a",
            "guildctl plan --pin 7=",
            "guildctl why 0",
            "guildctl nodes --url ftp://a",
            "guildctl shards --hot 0",
            "guildctl top --count 1",
            "guildctl drain a --yes --dry-run",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn several_coordinators_are_separated_by_commas() {
        let cli = parse("guildctl nodes --url http://a:1,https://b:2/x").unwrap();
        let urls: Vec<&str> = cli.url.iter().map(Url::as_str).collect();
        assert_eq!(urls, ["http://a:1/", "https://b:2/x"]);
    }
}
