// The map: every shard a square, in the colour of its owner.

import { byId, el, keep, plural, setText, shardName, thousandths, version } from "./dom.js";

const COLOURS = 10;
const SVG = "http://www.w3.org/2000/svg";

let shards = [];
let columns = 1;
let picked = null;
let names = [];

/** The class of a node's colour: by its place among all names. */
export function colour(node) {
  const place = names.indexOf(node);
  return place < 0 ? "none" : `n${place % COLOURS}`;
}

/** Must be told before anything is drawn with `colour`. */
export function setNodes(nodes) {
  names = nodes.map((node) => node.id).sort();
  if (picked !== null && !names.includes(picked)) pick(null);
}

/** All shards, from `GET map?shards=all`. */
export function drawMap(map) {
  shards = map.assignments ?? [];
  // About four times as wide as high, in round numbers.
  columns = 2 ** Math.max(2, Math.ceil(Math.log2(Math.max(1, shards.length)) / 2) + 1);
  const owners = new Map();
  shards.forEach((shard, place) => {
    const owner = shard.owner ?? "";
    owners.set(owner, (owners.get(owner) ?? "") + square(place));
  });
  const picture = byId("map");
  picture.setAttribute("viewBox", `0 0 ${columns} ${Math.max(1, Math.ceil(shards.length / columns))}`);
  picture.querySelectorAll("path:not(.moving)").forEach((path) => path.remove());
  for (const [owner, outline] of owners) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", outline);
    path.setAttribute("class", owner === "" ? "none" : colour(owner));
    path.dataset.owner = owner;
    picture.prepend(path);
  }
  highlight();
  summary(map);
  legend();
}

function square(place) {
  const [x, y] = [place % columns, Math.floor(place / columns)];
  return `M${x + 0.07} ${y + 0.07}h.86v.86h-.86z`;
}

function summary(map) {
  const owner = map.unowned > 0 ? `${map.unowned} without an owner` : "each has an owner";
  setText(byId("map-summary"), `${plural(map.shards, "shard")} on ${plural(map.nodes, "node")}, ${owner}. `
    + `Map ${version(map.version)}, imbalance ${thousandths(map.imbalance_milli)}.`);
}

function legend() {
  const counts = new Map(names.map((name) => [name, 0]));
  for (const { owner } of shards) if (counts.has(owner)) counts.set(owner, counts.get(owner) + 1);
  const entries = [...counts].map(([name, count]) => ({ name, count, colour: colour(name), on: name === picked }));
  keep(byId("legend"), entries, (entry) => entry.name, (entry) => el("button", {
    type: "button",
    "aria-pressed": String(entry.on),
    "data-name": "pick",
    on: { click: () => pick(entry.on ? null : entry.name) },
  }, el("span", { class: `swatch ${entry.colour}`, "aria-hidden": "true" }), `${entry.name} · ${entry.count}`));
}

function pick(name) {
  picked = name;
  highlight();
  legend();
}

function highlight() {
  const picture = byId("map");
  picture.classList.toggle("picking", picked !== null);
  for (const path of picture.querySelectorAll("path")) {
    path.classList.toggle("picked", path.dataset.owner === picked);
  }
}

/** Outlines shards that are on their way. */
export function drawMotion(moves) {
  const picture = byId("map");
  const outline = moves.map((move) => square(move.shard)).join("");
  let path = picture.querySelector(".moving");
  if (outline === "") {
    path?.remove();
    return;
  }
  if (!path) {
    path = document.createElementNS(SVG, "path");
    path.setAttribute("class", "moving");
    picture.append(path);
  }
  if (path.getAttribute("d") !== outline) path.setAttribute("d", outline);
}

function describe(shard) {
  const parts = [`Shard ${shardName(shard.shard)}: ${shard.owner ?? "no owner"}`];
  if (shard.standby) parts.push(`standby ${shard.standby}`);
  if (shard.pin) parts.push(`pinned to ${shard.pin}`);
  if (shard.load !== null && shard.load !== undefined) parts.push(`load ${shard.load}/min`);
  return parts.join(", ");
}

byId("map").addEventListener("pointermove", (event) => {
  const box = event.currentTarget.getBoundingClientRect();
  const size = box.width / columns;
  const place = Math.floor((event.clientY - box.top) / size) * columns + Math.floor((event.clientX - box.left) / size);
  if (shards[place]) setText(byId("map-point"), describe(shards[place]));
});
