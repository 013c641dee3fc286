//! The screen, drawn into memory.

use std::time::Duration;

use guildhall_shared::cluster_map::MapVersion;
use guildhall_shared::operator::{
    Cause, Change, GuildInfo, Leader, MapInfo, Move, Moves, NodeFigures, Outcome, Pause, PlanInfo,
    PlanState, ShardInfo,
};
use guildhall_shared::shard::ShardId;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::KeyCode;

use super::super::view::After;
use super::*;

const VERSION: MapVersion = MapVersion {
    term: 3,
    version: 7,
};

fn node(id: &str, sessions: u64, lag_ms: u64) -> NodeInfo {
    NodeInfo {
        id: id.to_owned(),
        state: NodeState::Active,
        weight: 1.0,
        drain: None,
        shards_owned: 128,
        shards_standby: 128,
        load: 600,
        heartbeat_age_ms: Some(800),
        status: Some(NodeFigures {
            boot_id: "b".to_owned(),
            relay_addr: "10.0.0.1:9".to_owned(),
            gateway_url: "ws://10.0.0.1".to_owned(),
            stopping: false,
            map: VERSION,
            sessions,
            realms_owned: 5,
            realms_moving: 0,
            dispatches_per_s: sessions * 2,
            feed_lag_ms: lag_ms,
            cores_busy: vec![250, 500],
        }),
    }
}

fn snapshot() -> Snapshot {
    let mut draining = node("gateway-2", 90, 1_200);
    draining.state = NodeState::Draining;
    let mut gone = node("gateway-3", 0, 0);
    gone.status = None;
    gone.shards_owned = 0;
    let moved = Move {
        shard: ShardId(7),
        from: Some("gateway-2".to_owned()),
        to: Some("gateway-1".to_owned()),
        cause: Cause::Drain,
    };
    Snapshot {
        at_ms: 0,
        coordinator: "one".to_owned(),
        leader: Some(Leader {
            holder: "one".to_owned(),
            term: 3,
        }),
        map: Some(MapInfo {
            version: VERSION,
            shards: 256,
            nodes: 2,
            unowned: 0,
            imbalance_milli: 1_024,
            load_imbalance_milli: None,
            drains: Default::default(),
            assignments: None,
        }),
        nodes: vec![node("gateway-1", 12, 3), draining, gone],
        moves: Moves {
            led: true,
            paused: Some(Pause {
                since_ms: 0,
                by: "alice".to_owned(),
            }),
            plan: Some(PlanInfo {
                id: 17,
                state: PlanState::Applying,
                changes: vec![Change::Drain {
                    node: "gateway-2".to_owned(),
                    over_s: 60,
                }],
                made_at_ms: 0,
                made_by: "alice".to_owned(),
                applied_at_ms: Some(1),
                applied_by: Some("alice".to_owned()),
                ended_at_ms: None,
                outcome: Outcome {
                    moves: Vec::new(),
                    imbalance_before_milli: 1_024,
                    imbalance_after_milli: 1_000,
                    load_imbalance_before_milli: None,
                    load_imbalance_after_milli: None,
                    sessions: 90,
                    stuck: 0,
                    events_per_s: 3,
                    steps: 16,
                    seconds: 61,
                },
            }),
            requested: Vec::new(),
            progress: Some(Progress {
                started_at_ms: 0,
                step: 3,
                step_started_at_ms: 0,
                version: VERSION,
                in_motion: vec![moved],
                done: 24,
                left: 103,
                timed_out: 0,
            }),
        },
    }
}

fn screen_of(view: &View, now: Instant) -> String {
    let mut terminal = Terminal::new(TestBackend::new(100, 24)).unwrap();
    terminal.draw(|frame| screen(frame, view, now)).unwrap();
    terminal.backend().to_string()
}

/// Ids of the nodes from top to bottom.
fn ids(view: &View) -> Vec<&str> {
    view.nodes()
        .into_iter()
        .map(|node| node.id.as_str())
        .collect()
}

#[test]
fn the_screen_shows_nodes_shards_and_moves() {
    let now = Instant::now();
    let mut view = View::new();
    view.arrived(snapshot(), now);
    view.hot_shards = vec![ShardInfo {
        shard: ShardId(7),
        owner: Some("gateway-2".to_owned()),
        standby: None,
        pin: None,
        load: Some(4_200),
    }];
    view.hot_guilds = vec![GuildInfo {
        guild: guildhall_shared::id::Id::new(1_180_000_000_000_000_002).unwrap(),
        shard: ShardId(7),
        owner: "gateway-2".to_owned(),
        load: 4_000,
        online: 1_200,
    }];
    view.press(KeyCode::Char('s'));
    insta::assert_snapshot!(screen_of(&view, now));
}

#[test]
fn a_lost_connection_is_said_and_the_last_state_stays() {
    let start = Instant::now();
    let mut view = View::new();
    view.arrived(snapshot(), start);
    view.lost("no coordinator answers".to_owned());
    let text = screen_of(&view, start + Duration::from_secs(12));
    assert!(text.contains("connection lost, as of 12 s ago"), "{text}");
    assert!(text.contains("gateway-1"), "{text}");
    view.no_news("Redis does not answer".to_owned());
    let text = screen_of(&view, start + Duration::from_secs(12));
    let no_news = "no news, as of 12 s ago: Redis does not answer";
    assert!(text.contains(no_news), "{text}");
    view.arrived(snapshot(), start);
    let text = screen_of(&view, start);
    assert!(text.contains("live, from one"), "{text}");
}

#[test]
fn keys_sort_turn_round_and_quit() {
    let mut view = View::new();
    view.arrived(snapshot(), Instant::now());
    assert_eq!(ids(&view), ["gateway-1", "gateway-2", "gateway-3"]);
    view.press(KeyCode::Char('s'));
    assert_eq!(ids(&view), ["gateway-2", "gateway-1", "gateway-3"]);
    view.press(KeyCode::Char('r'));
    assert_eq!(ids(&view), ["gateway-3", "gateway-1", "gateway-2"]);
    view.press(KeyCode::Char('n'));
    assert_eq!(ids(&view), ["gateway-1", "gateway-2", "gateway-3"]);
    assert_eq!(view.press(KeyCode::Char('x')), After::Stay);
    assert_eq!(view.press(KeyCode::Char('q')), After::Quit);
}

#[test]
fn a_tiny_terminal_is_no_trouble() {
    let mut view = View::new();
    view.arrived(snapshot(), Instant::now());
    for (width, height) in [(1, 1), (10, 3), (400, 100)] {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let draw = |frame: &mut Frame| screen(frame, &view, Instant::now());
        terminal.draw(draw).unwrap();
    }
}
