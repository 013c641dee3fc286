//! How `top` looks.

use std::time::Instant;

use guildhall_shared::cluster_map::NodeState;
use guildhall_shared::operator::{Moves, NodeInfo, Progress, Snapshot};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Gauge, Paragraph, Row, Table};

use super::view::{Order, Sort, Trouble, View};
use crate::plan::change_text;
use crate::print::{cores_busy, count, map_version, node_state, or_dash, thousandths};

/// Rows of the boxes below the nodes, with their frames.
const BELOW_ROWS: u16 = 10;
/// Lag from which it is shown as trouble: delivery is meant to take less.
const LAG_HIGH_MS: u64 = 1_000;

pub(crate) fn screen(frame: &mut Frame, view: &View, now: Instant) {
    let rows = Layout::vertical([
        Constraint::Length(2),
        Constraint::Min(4),
        Constraint::Length(BELOW_ROWS),
        Constraint::Length(1),
    ]);
    let [top, nodes, below, foot] = rows.areas(frame.area());
    head(frame, top, view, now);
    self::nodes(frame, nodes, view);
    let columns = Layout::horizontal([
        Constraint::Percentage(28),
        Constraint::Percentage(34),
        Constraint::Percentage(38),
    ]);
    let [shards, guilds, moves] = columns.spacing(1).areas(below);
    hot_shards(frame, shards, view);
    hot_guilds(frame, guilds, view);
    self::moves(frame, moves, view);
    let keys =
        " q quit   sort: n name  s sessions  d dispatches  h shards  b busy  l lag   r turn round";
    frame.render_widget(Paragraph::new(keys).dim(), foot);
}

fn head(frame: &mut Frame, area: Rect, view: &View, now: Instant) {
    let Some((snapshot, at)) = &view.state else {
        let text = match &view.trouble {
            Some(Trouble::Lost(reason)) => format!(" no connection: {reason}"),
            Some(Trouble::NoNews(reason)) => format!(" no news: {reason}"),
            None => " connecting …".to_owned(),
        };
        frame.render_widget(Paragraph::new(text), area);
        return;
    };
    let leader = match &snapshot.leader {
        Some(leader) => format!("led by {} in term {}", leader.holder, leader.term),
        None => "no leader: placement stands still".to_owned(),
    };
    let map = match &snapshot.map {
        Some(map) => format!(
            "map {}, {}, {} without owner, imbalance {}",
            map_version(map.version),
            count(map.shards, "shard"),
            map.unowned,
            thousandths(map.imbalance_milli),
        ),
        None => "no map yet".to_owned(),
    };
    let live: Vec<&NodeInfo> = snapshot
        .nodes
        .iter()
        .filter(|node| node.status.is_some())
        .collect();
    let figures = live.iter().filter_map(|node| node.status.as_ref());
    let (sessions, dispatches) = figures.fold((0, 0), |(sessions, dispatches), status| {
        (
            sessions + status.sessions,
            dispatches + status.dispatches_per_s,
        )
    });
    let age = now.saturating_duration_since(*at).as_secs();
    let link = match &view.trouble {
        Some(Trouble::Lost(reason)) => format!("connection lost, as of {age} s ago: {reason}")
            .red()
            .bold(),
        Some(Trouble::NoNews(reason)) => {
            format!("no news, as of {age} s ago: {reason}").red().bold()
        }
        None => format!("live, from {}", snapshot.coordinator).green(),
    };
    let lines = vec![
        Line::from(vec![
            Span::raw(" "),
            link,
            Span::raw(format!("   {leader}")),
        ]),
        Line::from(format!(
            " {map}   {} of {} live, {}, {dispatches} dispatches/s",
            live.len(),
            count(
                u64::try_from(snapshot.nodes.len()).unwrap_or(u64::MAX),
                "node"
            ),
            count(sessions, "session"),
        )),
    ];
    frame.render_widget(Paragraph::new(lines), area);
}

fn boxed(title: String) -> Block<'static> {
    Block::new()
        .borders(Borders::TOP)
        .title(title)
        .border_style(Style::new().dim())
}

fn nodes(frame: &mut Frame, area: Rect, view: &View) {
    let columns = [
        (Some(Sort::Name), "node"),
        (None, "state"),
        (Some(Sort::Sessions), "sessions"),
        (Some(Sort::Dispatches), "dispatches/s"),
        (Some(Sort::Shards), "shards"),
        (Some(Sort::Busy), "cores busy"),
        (Some(Sort::Lag), "lag ms"),
        (None, "weight"),
    ];
    let arrow = match view.order {
        Order::Up => "↑",
        Order::Down => "↓",
    };
    let titles = columns.iter().enumerate().map(|(place, (sort, title))| {
        let title = if *sort == Some(view.sort) {
            format!("{title}{arrow}")
        } else {
            (*title).to_owned()
        };
        let title = if place < 2 {
            Line::from(title)
        } else {
            Line::from(title).right_aligned()
        };
        Cell::from(title)
    });
    let head = Row::new(titles).style(Style::new().add_modifier(Modifier::BOLD));
    let rows = view.nodes().into_iter().map(node_row);
    let widths = [
        Constraint::Min(12),
        Constraint::Length(9),
        Constraint::Length(10),
        Constraint::Length(13),
        Constraint::Length(8),
        Constraint::Length(11),
        Constraint::Length(8),
        Constraint::Length(7),
    ];
    let table = Table::new(rows, widths)
        .header(head)
        .block(boxed(" nodes ".to_owned()));
    frame.render_widget(table, area);
}

fn node_row(node: &NodeInfo) -> Row<'static> {
    let status = node.status.as_ref();
    let right = |text: String| Cell::from(Line::from(text).right_aligned());
    let lag = status.map(|status| status.feed_lag_ms);
    let mut lag_cell = right(or_dash(lag));
    if lag.is_some_and(|lag| lag >= LAG_HIGH_MS) {
        lag_cell = lag_cell.style(Style::new().fg(Color::Red));
    }
    Row::new([
        Cell::from(node.id.clone()),
        Cell::from(node_state(node)).style(state_style(node)),
        right(or_dash(status.map(|status| status.sessions))),
        right(or_dash(status.map(|status| status.dispatches_per_s))),
        right(node.shards_owned.to_string()),
        right(or_dash(status.map(|status| cores_busy(&status.cores_busy)))),
        lag_cell,
        right(node.weight.to_string()),
    ])
}

fn state_style(node: &NodeInfo) -> Style {
    match (&node.status, node.state) {
        (None, _) => Style::new().fg(Color::Red),
        (Some(status), _) if status.stopping => Style::new().fg(Color::Yellow),
        (_, NodeState::Active) => Style::new().fg(Color::Green),
        (_, NodeState::Cordoned | NodeState::Draining) => Style::new().fg(Color::Yellow),
    }
}

fn hot_shards(frame: &mut Frame, area: Rect, view: &View) {
    let rows = view.hot_shards.iter().map(|shard| {
        Row::new([
            Cell::from(shard.shard.to_string()),
            Cell::from(Line::from(or_dash(shard.load)).right_aligned()),
            Cell::from(or_dash(shard.owner.as_ref())),
        ])
    });
    let widths = [
        Constraint::Length(5),
        Constraint::Length(9),
        Constraint::Min(10),
    ];
    let head = Row::new([
        Cell::from("shard"),
        Cell::from(Line::from("load/min").right_aligned()),
        Cell::from("owner"),
    ]);
    let table = Table::new(rows, widths)
        .header(head.style(Style::new().add_modifier(Modifier::BOLD)))
        .block(boxed(" hot shards ".to_owned()));
    frame.render_widget(table, area);
}

fn hot_guilds(frame: &mut Frame, area: Rect, view: &View) {
    let rows = view.hot_guilds.iter().map(|guild| {
        Row::new([
            Cell::from(guild.guild.to_string()),
            Cell::from(Line::from(guild.load.to_string()).right_aligned()),
            Cell::from(Line::from(guild.online.to_string()).right_aligned()),
        ])
    });
    let widths = [
        Constraint::Min(19),
        Constraint::Length(8),
        Constraint::Length(7),
    ];
    let head = Row::new([
        Cell::from("guild"),
        Cell::from(Line::from("load/min").right_aligned()),
        Cell::from(Line::from("online").right_aligned()),
    ]);
    let table = Table::new(rows, widths)
        .header(head.style(Style::new().add_modifier(Modifier::BOLD)))
        .block(boxed(" hot guilds ".to_owned()));
    frame.render_widget(table, area);
}

fn moves(frame: &mut Frame, area: Rect, view: &View) {
    let block = boxed(" moves ".to_owned());
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let Some((snapshot, _)) = &view.state else {
        return;
    };
    let rows = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]);
    let [bar, text] = rows.areas(inner);
    match &snapshot.moves.progress {
        Some(progress) => frame.render_widget(gauge(progress), bar),
        None => frame.render_widget(Paragraph::new(at_rest(&snapshot.moves)), bar),
    }
    frame.render_widget(Paragraph::new(move_lines(snapshot)), text);
}

fn at_rest(moves: &Moves) -> &'static str {
    match (moves.led, &moves.plan) {
        (false, _) => "no coordinator leads",
        (true, Some(_)) => "no shard is on its way",
        (true, None) => "every shard is where it is to be",
    }
}

fn gauge(progress: &Progress) -> Gauge<'static> {
    let moving = progress.in_motion.len() as f64;
    let done = f64::from(progress.done);
    let all = done + moving + f64::from(progress.left);
    let ratio = if all > 0.0 {
        (done / all).clamp(0.0, 1.0)
    } else {
        0.0
    };
    Gauge::default()
        .ratio(ratio)
        .gauge_style(Style::new().fg(Color::Cyan))
        .label(format!("{done} of {all}, step {}", progress.step))
}

fn move_lines(snapshot: &Snapshot) -> Vec<Line<'static>> {
    let moves = &snapshot.moves;
    let mut lines = Vec::new();
    if let Some(pause) = &moves.paused {
        lines.push(Line::from(format!("paused by {}", pause.by)).yellow());
    }
    if let Some(plan) = &moves.plan {
        let changes: Vec<String> = plan.changes.iter().map(change_text).collect();
        lines.push(Line::from(format!(
            "plan {}: {}",
            plan.id,
            changes.join(", ")
        )));
    }
    for wanted in &moves.requested {
        lines.push(Line::from(format!(
            "shard {} to {}, requested",
            wanted.shard, wanted.to
        )));
    }
    for moved in moves
        .progress
        .iter()
        .flat_map(|progress| &progress.in_motion)
    {
        lines.push(Line::from(format!(
            "shard {} {} → {}",
            moved.shard,
            moved.from.as_deref().unwrap_or("-"),
            moved.to.as_deref().unwrap_or("-"),
        )));
    }
    lines
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
