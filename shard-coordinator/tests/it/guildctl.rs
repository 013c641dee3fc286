//! `guildctl` as a process, against a coordinator.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use guildhall_shared::cluster_map::{ClusterMap, GuildLoad, NodeState, ShardLoad};
use guildhall_shared::operator::{
    Accepted, GuildsAnswer, History, MapInfo, Moves, NodesAnswer, PlanInfo, PlanState, Scope,
    ShardsAnswer, Snapshot, Why,
};
use guildhall_shared::shard::ShardId;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde::de::DeserializeOwned;
use sqlx::PgPool;

use crate::harness::{
    CLUSTER_KEY, SHARDS, TestCluster, TestCoordinator, TestGateway, both, owned, token_of,
};

/// A first map, or a change of it.
const SOON: Duration = Duration::from_secs(10);
/// Nobody listens there: the port is reserved.
const NOBODY: &str = "http://127.0.0.1:1";
const GUILD: &str = "1180000000000000002";

/// The program, with what it finds in its environment.
#[derive(Clone)]
struct Guildctl {
    url: String,
    token: Option<String>,
    cluster_key: Option<String>,
}

impl Guildctl {
    /// With a token for everything.
    fn for_operator(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            token: Some(token("alice", Scope::Operate)),
            cluster_key: None,
        }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_guildctl"));
        command
            .args(line.split(' '))
            .env_clear()
            .env("GUILDCTL_URL", &self.url)
            .envs(self.token.iter().map(|token| ("GUILDCTL_TOKEN", token)))
            .envs(self.cluster_key.iter().map(|key| ("CLUSTER_KEY", key)))
            .env("USER", "bob")
            .stdin(Stdio::null());
        command
    }

    async fn run(&self, line: &str) -> Ran {
        let mut command = self.command(line);
        // The coordinator that is asked runs in this process.
        let output = tokio::task::spawn_blocking(move || command.output());
        Ran::new(line, output.await.unwrap().unwrap())
    }

    /// Runs a command on a terminal until it asks.
    async fn asks(&self, line: &str) -> Asking {
        let (mut command, line) = (self.command(line), line.to_owned());
        let ask = move || {
            let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
            grantpt(&terminal).unwrap();
            unlockpt(&terminal).unwrap();
            let name = ptsname(&terminal, Vec::<u8>::new()).unwrap();
            let user = OpenOptions::new()
                .read(true)
                .write(true)
                .open(name.to_str().unwrap())
                .unwrap();
            let child = command
                .stdin(user.try_clone().unwrap())
                .stderr(user)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            drop(command); // the terminal is the child's alone
            let mut terminal = File::from(terminal);
            let (mut said, mut bytes) = (Vec::new(), [0; 1024]);
            while !said.ends_with(b"[y/N] ") {
                let read = terminal.read(&mut bytes);
                let read = read.unwrap_or_else(|_| panic!("{line} does not ask: {said:?}"));
                said.extend_from_slice(&bytes[..read]);
            }
            Asking {
                line,
                child,
                terminal,
                said: String::from_utf8(said).unwrap(),
            }
        };
        tokio::task::spawn_blocking(ask).await.unwrap()
    }

    /// What a command prints as JSON.
    async fn json<T: DeserializeOwned>(&self, line: &str) -> T {
        let ran = self.run(&format!("{line} --json")).await;
        serde_json::from_str(ran.succeeds())
            .unwrap_or_else(|error| panic!("{line}: {error}: {ran:?}"))
    }
}

/// A command that waits for an answer.
struct Asking {
    line: String,
    child: Child,
    terminal: File,
    said: String,
}

impl Asking {
    async fn answered(self, answer: &'static str) -> Ran {
        let Self {
            line,
            child,
            mut terminal,
            ..
        } = self;
        let end = move || {
            terminal.write_all(answer.as_bytes()).unwrap();
            let mut stderr = Vec::new();
            let _ = terminal.read_to_end(&mut stderr); // fails when the child has closed it
            let output = child.wait_with_output().unwrap();
            Output { stderr, ..output }
        };
        Ran::new(&line, tokio::task::spawn_blocking(end).await.unwrap())
    }
}

#[derive(Debug)]
struct Ran {
    line: String,
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn new(line: &str, output: Output) -> Self {
        Self {
            line: line.to_owned(),
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// What it printed.
    #[track_caller]
    fn succeeds(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:?}");
        &self.stdout
    }

    /// What it complained of; nothing else was printed.
    #[track_caller]
    fn fails(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stdout, "", "{}", self.line);
        &self.stderr
    }
}

fn token(name: &str, scope: Scope) -> String {
    token_of(name, CLUSTER_KEY, scope)
}

/// A coordinator, two gateways, and the map of both.
struct Running {
    cluster: TestCluster,
    coordinator: TestCoordinator,
    /// Both report a load for shard 7 and for one guild; who owns them is listened to.
    _gateways: [TestGateway; 2],
    guildctl: Guildctl,
}

impl Running {
    async fn start(db: PgPool, redis_db: u8) -> Self {
        let mut cluster = TestCluster::new(db, redis_db).await;
        let _gateways = cluster.start_gateways();
        for gateway in &_gateways {
            gateway.report(|status| {
                let (shard, load) = (ShardId(7), 600);
                status.shards.push(ShardLoad { shard, load });
                let guild = GUILD.parse().unwrap();
                let online = 12;
                status.guilds.push(GuildLoad {
                    guild,
                    load,
                    online,
                    edges: vec!["gateway-1".to_owned(), "gateway-2".to_owned()],
                    edges_total: 17,
                });
            });
        }
        let coordinator = cluster.start_coordinator("one");
        let all = usize::from(SHARDS);
        let both = |map: &ClusterMap| {
            both(map) && owned(map, "gateway-1") + owned(map, "gateway-2") == all
        };
        cluster.map_with(SOON, "the first map", both).await;
        let guildctl = Guildctl::for_operator(&format!("http://{}", coordinator.listen()));
        Self {
            cluster,
            coordinator,
            _gateways,
            guildctl,
        }
    }

    async fn map_with(&mut self, what: &str, accept: impl Fn(&ClusterMap) -> bool) -> ClusterMap {
        self.cluster.map_with(SOON, what, accept).await
    }

    async fn state(&self, node: &str) -> NodeState {
        let nodes: NodesAnswer = self.guildctl.json("nodes").await;
        let mut nodes = nodes.nodes.into_iter();
        nodes.find(|info| info.id == node).unwrap().state
    }
}

// One after the other on one cluster: each leaves it with two active gateways.
#[sqlx::test(migrations = "../migrations")]
async fn guildctl_shows_and_steers_a_cluster(db: PgPool) {
    let mut running = Running::start(db, 9).await;
    commands_that_look_print_what_is(&running).await;
    exit_codes_tell_refusal_wrong_usage_and_absence_apart(&running).await;
    tokens_come_from_the_cluster_key(&running).await;
    commands_that_change_do_so_and_are_in_the_history(&mut running).await;
    what_was_shown_is_done_or_nothing(&mut running).await;
    a_plan_is_shown_applied_and_waited_for(&mut running).await;
    running.coordinator.stop().await;
}

async fn commands_that_look_print_what_is(running: &Running) {
    let guildctl = &running.guildctl;

    let nodes: NodesAnswer = guildctl.json("nodes").await;
    let ids: Vec<&str> = nodes.nodes.iter().map(|node| node.id.as_str()).collect();
    assert_eq!(ids, ["gateway-1", "gateway-2"]);
    let shards: u32 = nodes.nodes.iter().map(|node| node.shards_owned).sum();
    assert_eq!(shards, u32::from(SHARDS));
    let text = guildctl.run("nodes").await;
    assert!(text.succeeds().starts_with("node       state"), "{text:?}");

    let map: MapInfo = guildctl.json("map").await;
    assert_eq!((map.shards, map.unowned), (256, 0));
    assert_eq!(map.assignments, None);
    let map: MapInfo = guildctl.json("map --shards").await;
    assert_eq!(map.assignments.unwrap().len(), 256);
    let text = guildctl.run("map").await;
    assert!(
        text.succeeds()
            .contains("256 shards, 2 nodes, 0 without owner"),
        "{text:?}"
    );

    let hot: ShardsAnswer = guildctl.json("shards --hot 1").await;
    assert_eq!(hot.shards.len(), 1);
    assert_eq!(
        (hot.shards[0].shard, hot.shards[0].load),
        (ShardId(7), Some(600))
    );
    let hot: GuildsAnswer = guildctl.json("guilds --hot 5").await;
    assert_eq!(hot.guilds[0].guild.to_string(), GUILD);
    assert_eq!(hot.guilds[0].online, 12);

    let why: Why = guildctl.json(&format!("why {GUILD}")).await;
    assert_eq!(why.guild.to_string(), GUILD);
    assert!(why.shard.owner.is_some());
    let text = guildctl.run(&format!("why {GUILD}")).await;
    for part in [
        "served by gateway-",
        ", standby gateway-",
        "heard at 17 nodes: gateway-1, gateway-2 and 15 more\n",
        ", lag 0 ms\n",
    ] {
        assert!(text.succeeds().contains(part), "{part} {text:?}");
    }

    let history: History = guildctl.json("history --limit 1").await;
    assert_eq!(history.entries.len(), 1);
    let moves: Moves = guildctl.json("moves").await;
    assert_eq!(moves.plan, None);
    assert_eq!(
        guildctl.run("moves").await.succeeds(),
        "nothing is under way\n"
    );

    let top = guildctl.run("top --json --count 2").await;
    let snapshots: Vec<Snapshot> = (top.succeeds().lines())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(snapshots.len(), 2);
    assert_eq!(snapshots[0].coordinator, "one");
}

async fn commands_that_change_do_so_and_are_in_the_history(running: &mut Running) {
    let guildctl = running.guildctl.clone();

    let accepted: Accepted = guildctl.json("cordon gateway-1").await;
    assert_eq!(running.state("gateway-1").await, NodeState::Cordoned);
    let history: History = guildctl.json("history").await;
    let entry = history
        .entries
        .iter()
        .find(|entry| entry.id == accepted.audit_id);
    let entry = entry.expect("the history has what was accepted");
    assert_eq!(
        (entry.who.as_str(), entry.action.as_str()),
        ("alice", "cordon")
    );
    guildctl.run("uncordon gateway-1").await.succeeds();
    assert_eq!(running.state("gateway-1").await, NodeState::Active);

    let map = running.map_with("any", |_| true).await;
    let shard = ShardId(7);
    let other = match map.owner(shard).unwrap() {
        "gateway-1" => "gateway-2",
        _ => "gateway-1",
    };
    guildctl
        .run(&format!("pin 7 {other} --yes"))
        .await
        .succeeds();
    let pinned = |map: &ClusterMap| map.owner(shard) == Some(other);
    running.map_with("the pinned shard moves", pinned).await;
    let why: ShardsAnswer = guildctl.json("shards --hot 1").await;
    assert_eq!(why.shards[0].pin.as_deref(), Some(other));
    guildctl.run("unpin 7 --yes").await.succeeds();

    let from = map.owner(ShardId(9)).unwrap();
    let to = if from == "gateway-1" {
        "gateway-2"
    } else {
        "gateway-1"
    };
    guildctl
        .run(&format!("move 9 --to {to} --yes"))
        .await
        .succeeds();
    let moved = |map: &ClusterMap| map.owner(ShardId(9)) == Some(to);
    running.map_with("the shard moves", moved).await;

    guildctl.run("pause").await.succeeds();
    let moves: Moves = guildctl.json("moves").await;
    assert_eq!(moves.paused.unwrap().by, "alice");
    guildctl.run("resume").await.succeeds();
    let moves: Moves = guildctl.json("moves").await;
    assert_eq!(moves.paused, None);

    let before = guildctl.json::<Moves>("moves").await;
    let plan: PlanInfo = guildctl.json("drain gateway-1 --dry-run").await;
    assert_eq!(plan.state, PlanState::Draft);
    assert!(!plan.outcome.moves.is_empty());
    assert_eq!(running.state("gateway-1").await, NodeState::Active);
    assert_eq!(guildctl.json::<Moves>("moves").await.plan, before.plan);

    let drained = guildctl.run("drain gateway-1 --over 1s --wait --yes").await;
    assert_eq!(drained.succeeds(), "gateway-1 is empty\n");
    assert!(drained.stderr.contains("gateway-1: "), "{drained:?}");
    let map = running.map_with("any", |_| true).await;
    assert_eq!(owned(&map, "gateway-1"), 0);
    guildctl.run("undrain gateway-1").await.succeeds();
    running
        .map_with("the node gets shards again", |map| {
            owned(map, "gateway-1") > 0
        })
        .await;

    guildctl.run("weight gateway-1 3 --yes").await.succeeds();
    running
        .map_with("three quarters are there", |map| {
            owned(map, "gateway-1") >= 180
        })
        .await;

    let nothing = guildctl.run("abort --yes").await;
    assert!(
        nothing.fails(1).contains("(nothing_to_abort)"),
        "{nothing:?}"
    );
}

async fn what_was_shown_is_done_or_nothing(running: &mut Running) {
    let guildctl = running.guildctl.clone();

    let asking = guildctl.asks("drain gateway-1 --over 1s").await;
    assert!(asking.said.contains("drain gateway-1 over 1 s"));
    guildctl.run("cordon gateway-2").await.succeeds();
    let stale = asking.answered("y\n").await;
    assert!(stale.fails(1).contains("(plan_stale)"), "{stale:?}");
    assert_eq!(running.state("gateway-1").await, NodeState::Active);
    guildctl.run("uncordon gateway-2").await.succeeds();

    let map = running.map_with("any", |_| true).await;
    let owner = map.owner(ShardId(7)).unwrap();
    let asking = guildctl.asks(&format!("pin 7 {owner}")).await;
    let refused = asking.answered("\n").await;
    assert!(
        refused.fails(1).contains("nothing was changed"),
        "{refused:?}"
    );
    let asking = guildctl.asks(&format!("pin 7 {owner}")).await;
    let done = asking.answered("y\n").await;
    assert!(done.succeeds().starts_with("plan "), "{done:?}");
    let hot: ShardsAnswer = guildctl.json("shards --hot 1").await;
    assert_eq!(hot.shards[0].pin.as_deref(), Some(owner));
    let start = Instant::now();
    while guildctl.json::<Moves>("moves").await.plan.is_some() {
        assert!(start.elapsed() < SOON, "the plan does not end");
    }
    guildctl.run("unpin 7 --yes").await.succeeds();
}

async fn a_plan_is_shown_applied_and_waited_for(running: &mut Running) {
    let guildctl = running.guildctl.clone();

    let there = owned(&running.map_with("any", |_| true).await, "gateway-2");
    let plan: PlanInfo = guildctl.json("plan --drain gateway-2=1s").await;
    assert_eq!(plan.outcome.moves.len(), there);
    let text = guildctl.run("plan --drain gateway-2=1s").await;
    let moves = format!("moves: {there} shards ");
    assert!(text.succeeds().contains(&moves), "{text:?}");
    let hint = "do it with: guildctl apply ";
    assert!(text.stdout.contains(hint), "{text:?}");

    let id = plan.id;
    let applied: PlanInfo = guildctl.json(&format!("apply {id} --yes --wait")).await;
    assert_eq!(applied.state, PlanState::Done);
    let map = running.map_with("any", |_| true).await;
    assert_eq!(owned(&map, "gateway-1"), usize::from(SHARDS));

    let again = guildctl.run(&format!("apply {id} --yes")).await;
    assert!(again.fails(1).contains("(plan_not_draft)"), "{again:?}");
    let unknown = guildctl.run("apply 999999 --yes").await;
    assert!(unknown.fails(1).contains("(unknown_plan)"), "{unknown:?}");
}

async fn exit_codes_tell_refusal_wrong_usage_and_absence_apart(running: &Running) {
    let guildctl = running.guildctl.clone();

    let unknown = guildctl.run("cordon gateway-9").await;
    assert!(unknown.fails(1).contains("(unknown_node)"), "{unknown:?}");
    assert!(unknown.stderr.contains("`guildctl nodes`"), "{unknown:?}");

    let unsure = guildctl.run("drain gateway-1").await;
    assert!(unsure.fails(2).contains("say --yes"), "{unsure:?}");
    assert_eq!(running.state("gateway-1").await, NodeState::Active);
    assert!(
        guildctl
            .run("frobnicate")
            .await
            .fails(2)
            .contains("frobnicate")
    );
    let top = guildctl.run("top").await;
    assert!(top.fails(2).contains("needs a terminal"), "{top:?}");

    let reader = Guildctl {
        token: Some(token("ann", Scope::Read)),
        ..guildctl.clone()
    };
    reader.run("nodes").await.succeeds();
    let refused = reader.run("cordon gateway-1").await;
    assert!(
        refused.fails(1).contains("(scope_too_small)"),
        "{refused:?}"
    );

    let stranger = Guildctl {
        token: Some("junk".to_owned()),
        ..guildctl.clone()
    };
    let refused = stranger.run("nodes").await;
    assert!(refused.fails(1).contains("(unauthorized)"), "{refused:?}");
    assert!(!refused.stderr.contains("junk"), "{refused:?}");
    let nobody = Guildctl {
        token: None,
        ..guildctl.clone()
    };
    assert!(
        nobody
            .run("nodes")
            .await
            .fails(2)
            .contains("GUILDCTL_TOKEN")
    );

    let away = Guildctl {
        url: NOBODY.to_owned(),
        ..guildctl.clone()
    };
    let absent = away.run("nodes").await;
    assert!(
        absent.fails(3).contains("no coordinator answers"),
        "{absent:?}"
    );
    let second = Guildctl {
        url: format!("{NOBODY},{}", guildctl.url),
        ..guildctl.clone()
    };
    second.run("nodes").await.succeeds();
    second.run("cordon gateway-1").await.succeeds();
    second.run("uncordon gateway-1").await.succeeds();
}

async fn tokens_come_from_the_cluster_key(running: &Running) {
    let with_key = Guildctl {
        token: None,
        cluster_key: Some(CLUSTER_KEY.to_owned()),
        ..running.guildctl.clone()
    };
    with_key.run("cordon gateway-1").await.succeeds();
    let history: History = with_key.json("history --limit 5").await;
    assert!(
        history
            .entries
            .iter()
            .any(|entry| entry.who == "bob" && entry.action == "cordon")
    );

    let made = with_key
        .run("token --scope read --for 5m --name alice")
        .await;
    let alice = Guildctl {
        token: Some(made.succeeds().trim().to_owned()),
        ..running.guildctl.clone()
    };
    alice.run("nodes").await.succeeds();
    alice.run("uncordon gateway-1").await.fails(1);
    let too_long = with_key.run("token --for 13h --name alice").await;
    assert!(too_long.fails(2).contains("12 hours"), "{too_long:?}");
    with_key.run("uncordon gateway-1").await.succeeds();
}

#[tokio::test]
async fn help_and_completions_need_no_coordinator() {
    let guildctl = Guildctl {
        url: NOBODY.to_owned(),
        token: None,
        cluster_key: None,
    };
    let mut help = guildctl.run("--help").await.succeeds().to_owned();
    for command in [
        "nodes",
        "map",
        "shards",
        "guilds",
        "why",
        "history",
        "moves",
        "cordon",
        "uncordon",
        "drain",
        "undrain",
        "weight",
        "pin",
        "unpin",
        "move",
        "pause",
        "resume",
        "abort",
        "plan",
        "apply",
        "top",
        "token",
        "completions",
    ] {
        let ran = guildctl.run(&format!("{command} --help")).await;
        help += &format!("\n== {command}\n\n{}", ran.succeeds());
    }
    // The one line that holds a value of this test's environment.
    insta::assert_snapshot!(help.replace(NOBODY, "URL"));
    for shell in ["bash", "zsh", "fish"] {
        let script = guildctl.run(&format!("completions {shell}")).await;
        assert!(script.succeeds().contains("uncordon"), "{shell}");
    }
}
