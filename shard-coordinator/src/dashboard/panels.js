// What is shown and has no state of its own: figures, nodes, moves, hot shards, history.

import { byId, cell, duration, el, grouped, keep, moment, number, plural, setText, shardName, thousandths, version } from "./dom.js";
import { colour, drawMotion } from "./map.js";

/** Lag from which it is marked: delivery is meant to take less. */
const LAG_HIGH_MS = 1000;

const CAUSES = {
  unowned: "it had no owner",
  owner_lost: "its owner was lost",
  owner_stopping: "its owner stops",
  drain: "its owner drains",
  pin: "pinned",
  move: "an operator moved it",
  share: "its owner has more than its share",
  load: "its owner is too loaded",
};
export const cause = (word) => CAUSES[word] ?? word;

/** What a node does: a word, how it is marked, and more where there is more. */
export function nodeState(node) {
  if (!node.status) return ["Gone", "bad"];
  if (node.status.stopping) return ["Stopping", "warn"];
  if (node.state === "cordoned") return ["Cordoned", "warn"];
  if (node.state === "draining") return ["Draining", "warn"];
  return ["Active", "good"];
}

export function drawFigures(state) {
  const live = state.nodes.filter((node) => node.status);
  const sum = (figure) => live.reduce((total, node) => total + node.status[figure], 0);
  const entries = [
    ["Nodes live", grouped(live.length), `of ${state.nodes.length}`, live.length < state.nodes.length],
    ["Sessions", grouped(sum("sessions")), "", false],
    ["Dispatches", grouped(sum("dispatches_per_s")), "per second", false],
    ["Shards", state.map ? grouped(state.map.shards) : "–",
      state.map?.unowned ? `${state.map.unowned} without owner` : "", Boolean(state.map?.unowned)],
    ["Imbalance", state.map ? thousandths(state.map.imbalance_milli) : "–", "by shards", false],
    ["Imbalance", typeof state.map?.load_imbalance_milli === "number" ? thousandths(state.map.load_imbalance_milli) : "–", "by load", false],
  ];
  keep(byId("figures"), entries, (entry) => entry[0] + entry[2].replace(/\d+/g, ""), ([title, value, more, warn]) =>
    el("div", { class: warn ? "warn" : null }, el("dt", {}, title), el("dd", {}, value, " ", el("small", {}, more))));
}

/** `actions` are called with a node's id; absent for who may only look. */
export function drawNodes(nodes, at, actions) {
  const rows = nodes.map((node) => ({
    id: node.id,
    colour: colour(node.id),
    state: nodeState(node),
    set: node.state,
    left: node.drain && node.status ? Math.max(0, Math.ceil((node.drain.since_ms + node.drain.over_ms - at) / 1000)) : null,
    shards: node.shards_owned,
    sessions: node.status?.sessions,
    dispatches: node.status?.dispatches_per_s,
    cores: node.status?.cores_busy,
    lag: node.status?.feed_lag_ms,
    heartbeat: node.heartbeat_age_ms,
    weight: node.weight,
    operate: Boolean(actions),
  }));
  keep(byId("nodes").tBodies[0], rows, (row) => row.id, (row) => nodeRow(row, actions));
}

function nodeRow(row, actions) {
  const [word, mark] = row.state;
  const state = row.left ? `${word}, ${duration(row.left)} left` : word;
  const button = (name, label, act) => el("button", {
    type: "button", "data-name": name, "aria-label": `${label.replace("…", "")} ${row.id}`, on: { click: () => act(row.id) },
  }, label);
  const buttons = [];
  if (actions) {
    if (row.set === "active") buttons.push(button("cordon", "Cordon", actions.cordon));
    if (row.set === "cordoned") buttons.push(button("uncordon", "Uncordon", actions.uncordon));
    if (row.set === "draining") buttons.push(button("undrain", "Undrain", actions.undrain));
    else buttons.push(button("drain", "Drain…", actions.drain));
  }
  const high = row.lag >= LAG_HIGH_MS;
  return el("tr", {},
    el("th", { scope: "row" }, el("span", { class: `swatch ${row.colour}`, "aria-hidden": "true" }), row.id),
    el("td", {}, el("span", { class: `state ${mark}` }, state)),
    number(row.shards), number(row.sessions), number(row.dispatches), busy(row.cores),
    cell(row.lag === undefined ? "–" : `${grouped(row.lag)} ms${high ? ", high" : ""}`, { class: high ? "number high" : "number" }),
    cell(typeof row.heartbeat === "number" ? `${(row.heartbeat / 1000).toFixed(1)} s ago` : "–", { class: "number" }),
    cell(row.weight, { class: "number" }),
    el("td", { class: "actions" }, ...buttons));
}

function busy(cores) {
  if (!cores?.length) return cell("–");
  const total = cores.reduce((sum, core) => sum + core, 0) / 1000;
  const bar = el("i");
  bar.style.width = `${Math.min(100, (total / cores.length) * 100)}%`;
  return el("td", {}, el("span", { class: "load", "aria-hidden": "true" }, bar), `${total.toFixed(2)} of ${cores.length}`);
}

export function drawMoves(moves) {
  const { progress, plan, paused, requested } = moves;
  byId("paused").hidden = !paused;
  if (paused) {
    setText(byId("paused-text"), `Moves are paused since ${moment(paused.since_ms)}, by ${paused.by}. `
      + "Only shards whose owner is gone move.");
  }
  const moving = progress?.in_motion ?? [];
  const parts = [];
  if (plan) parts.push(`Plan ${plan.id} of ${plan.applied_by ?? plan.made_by} runs.`);
  if (progress) {
    parts.push(`Step ${progress.step}: ${grouped(progress.done)} moved, ${moving.length} in motion, ${grouped(progress.left)} left.`);
    if (progress.timed_out) parts.push(`${plural(progress.timed_out, "step")} did not settle in time.`);
  }
  if (parts.length === 0 && requested.length === 0) parts.push("Every shard is where it is to be.");
  setText(byId("moves-text"), parts.join(" "));
  const bar = byId("moves-bar");
  bar.hidden = !progress;
  if (progress) {
    bar.max = Math.max(1, progress.done + moving.length + progress.left);
    bar.value = progress.done;
  }
  const rows = [
    ...moving.map((move) => [`m${move.shard}`, `Shard ${shardName(move.shard)}`, `${move.from ?? "no owner"} → ${move.to ?? "no owner"}`, cause(move.cause)]),
    ...requested.map((move) => [`r${move.shard}`, `Shard ${shardName(move.shard)}`, `→ ${move.to}`, "requested"]),
  ];
  keep(byId("moves"), rows, (row) => row[0], ([, shard, where, why]) =>
    el("li", {}, el("span", {}, shard), el("span", {}, where), el("span", { class: "quiet" }, why)));
  drawMotion(moving);
}

export function drawHotShards(shards) {
  byId("hot-shards-none").hidden = shards.length > 0;
  const rows = shards.map((shard) => ({ ...shard, colour: colour(shard.owner) }));
  keep(byId("hot-shards"), rows, (row) => row.shard, (row) => el("tr", {},
    el("th", { scope: "row" }, shardName(row.shard)), number(row.load),
    owner(row), cell(row.standby ?? "–"), cell(row.pin ?? "–")));
}

export function drawHotGuilds(guilds) {
  byId("hot-guilds-none").hidden = guilds.length > 0;
  const rows = guilds.map((guild) => ({ ...guild, colour: colour(guild.owner) }));
  keep(byId("hot-guilds"), rows, (row) => row.guild, (row) => el("tr", {},
    el("th", { scope: "row" }, row.guild), cell(shardName(row.shard)), number(row.load),
    number(row.online), owner(row)));
}

function owner(row) {
  if (!row.owner) return cell("none");
  return el("td", {}, el("span", { class: `swatch ${row.colour}`, "aria-hidden": "true" }), row.owner);
}

export function drawHistory(entries) {
  keep(byId("history"), entries, (entry) => entry.id, (entry) => el("tr", {},
    cell(moment(entry.at_ms)), cell(entry.who), cell(entry.action.replaceAll("_", " ")),
    cell(detail(entry.detail), { class: "detail" }), cell(version(entry.version), { class: "number" })));
}

/** A detail as words; long ones are cut. */
function detail(value) {
  if (value === null || value === undefined) return "";
  const text = typeof value === "object" && !Array.isArray(value)
    ? Object.entries(value).map(([key, part]) => `${key}: ${typeof part === "object" ? JSON.stringify(part) : part}`).join(", ")
    : JSON.stringify(value);
  return text.length > 240 ? `${text.slice(0, 240)}…` : text;
}

export function drawWhy(why) {
  const shard = why.shard;
  const parts = [`Guild ${why.guild} is in shard ${shardName(shard.shard)}, ${shard.owner ? `served by ${shard.owner}`
    : "without an owner: each gateway serves it by itself"}${shard.standby ? `, standby ${shard.standby}` : ""}.`];
  if (why.last_move) {
    parts.push(`There since ${moment(why.last_move.at_ms)}, from ${why.last_move.from ?? "nowhere"}: ${cause(why.last_move.cause)}.`);
  }
  if (shard.pin) parts.push(`Pinned to ${shard.pin}.`);
  if (typeof why.load === "number") parts.push(`Load ${grouped(why.load)}/min, ${grouped(why.online ?? 0)} members online.`);
  if (why.edges_total > 0) {
    const more = why.edges_total - why.edges.length;
    parts.push(`Heard at ${why.edges.join(", ")}${more > 0 ? ` and ${more} more` : ""}.`);
  }
  if (why.node?.status) parts.push(`Lag of its owner ${why.node.status.feed_lag_ms} ms.`);
  setText(byId("why"), parts.join(" "));
}
