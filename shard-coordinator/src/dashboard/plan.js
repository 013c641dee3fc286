// Plans: changes are gathered, previewed by the coordinator, and applied when confirmed.

import { post } from "./api.js";
import { ask, byId, cell, el, grouped, keep, plural, setText, shardName, thousandths, toast } from "./dom.js";
import { cause } from "./panels.js";

/** Per kind: its name, what it needs besides, and how a change is made of that. */
const KINDS = {
  drain: { name: "Drain a node", node: true, value: ["Over seconds", "60"], make: (node, value) => ({ change: "drain", node, over_s: whole(value) }) },
  undrain: { name: "Undrain a node", node: true, make: (node) => ({ change: "undrain", node }) },
  cordon: { name: "Cordon a node", node: true, make: (node) => ({ change: "cordon", node }) },
  uncordon: { name: "Uncordon a node", node: true, make: (node) => ({ change: "uncordon", node }) },
  weight: { name: "Set a node's weight", node: true, value: ["Weight", "1"], make: (node, value) => ({ change: "weight", node, weight: fraction(value) }) },
  pin: { name: "Pin a shard to a node", node: true, value: ["Shard", ""], make: (node, value) => ({ change: "pin", shard: whole(value), node }) },
  unpin: { name: "Unpin a shard", node: false, value: ["Shard", ""], make: (_, value) => ({ change: "unpin", shard: whole(value) }) },
  move: { name: "Move shards once", node: true, value: ["Shards, by commas", ""], make: (to, value) => ({ change: "move", shards: value.split(",").map(whole), to }) },
  guild: { name: "Move a guild's shard once", node: true, value: ["Guild", ""], make: (to, value) => ({ change: "move", guild: digits(value), to }) },
};

function digits(text) {
  if (!/^\d+$/.test(text.trim())) throw new Error(`"${text}" is not a whole number.`);
  return text.trim();
}
const whole = (text) => Number(digits(text));
function fraction(text) {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) throw new Error(`"${text}" is not a number.`);
  return value;
}

/** A change in words. */
function words(change) {
  switch (change.change) {
    case "drain": return `Drain ${change.node} over ${change.over_s} s`;
    case "undrain": return `Undrain ${change.node}`;
    case "cordon": return `Cordon ${change.node}`;
    case "uncordon": return `Uncordon ${change.node}`;
    case "weight": return `Weight of ${change.node}: ${change.weight}`;
    case "pin": return `Pin shard ${shardName(change.shard)} to ${change.node}`;
    case "unpin": return `Unpin shard ${shardName(change.shard)}`;
    case "move": return change.guild ? `Move the shard of guild ${change.guild} to ${change.to}`
      : `Move ${plural(change.shards.length, "shard")} to ${change.to}: ${change.shards.map(shardName).join(", ")}`;
    default: return JSON.stringify(change);
  }
}

let changes = [];
let plan = null;
/** Counts previews and changes of the list: only the newest preview is shown. */
let previews = 0;

export function setPlanNodes(nodes) {
  keep(byId("node"), nodes.map((node) => node.id), (id) => id, (id) => el("option", { value: id }, id));
}

/** Empties the form and shows what one change leads to. */
export async function planOne(change) {
  changes = [change];
  drawChanges();
  await preview();
}

function drawChanges() {
  previews += 1;
  plan = null;
  byId("plan").hidden = true;
  byId("plan-error").textContent = "";
  byId("preview").disabled = changes.length === 0;
  byId("discard").disabled = changes.length === 0;
  keep(byId("changes"), changes.map((change, place) => ({ place, text: words(change) })), (row) => row.place, (row) => el("li", {},
    row.text,
    el("button", { type: "button", "aria-label": `Remove: ${row.text}`, on: { click: () => remove(row.place) } }, "Remove")));
}

function remove(place) {
  changes.splice(place, 1);
  drawChanges();
  byId("kind").focus();
}

async function preview() {
  byId("preview").disabled = true;
  byId("plan-error").textContent = "";
  const asked = ++previews;
  try {
    const made = await post("plan", { changes });
    if (asked === previews) drawPlan(made); // else the changes are others by now
  } catch (error) {
    if (asked === previews) byId("plan-error").textContent = error.message;
  } finally {
    if (asked === previews) byId("preview").disabled = changes.length === 0;
  }
}

function drawPlan(made) {
  plan = made;
  const { outcome } = plan;
  setText(byId("plan-name"), `Plan ${plan.id}: nothing has changed yet`);
  const change = (before, after) => `${thousandths(before)} before, ${thousandths(after)} after`;
  const figures = [
    ["Moves", `${plural(outcome.moves.length, "shard")} ${outcome.steps === 0 ? "at once" : `in ${plural(outcome.steps, "step")}`}`],
    ["Time", `about ${grouped(outcome.seconds)} s`],
    ...(outcome.stuck > 0 ? [["Stuck", `${plural(outcome.stuck, "shard")}: no other node takes any`]] : []),
    ["Sessions", `${grouped(outcome.sessions)} are sent to other nodes`],
    ["Event copies", `${grouped(outcome.events_per_s)} per second in the shards that move`],
    ["By shards", change(outcome.imbalance_before_milli, outcome.imbalance_after_milli)],
  ];
  if (typeof outcome.load_imbalance_before_milli === "number") {
    figures.push(["By load", change(outcome.load_imbalance_before_milli, outcome.load_imbalance_after_milli)]);
  }
  byId("plan-figures").replaceChildren(...figures.flatMap(([title, text]) => [el("dt", {}, title), el("dd", {}, text)]));
  setText(byId("plan-moves-title"), outcome.moves.length === 0 ? "No shard moves" : `Every move (${grouped(outcome.moves.length)})`);
  byId("plan-moves").replaceChildren(...outcome.moves.map((move) => el("tr", {},
    el("th", { scope: "row" }, shardName(move.shard)), cell(move.from ?? "no owner"), cell(move.to ?? "no owner"), cell(cause(move.cause)))));
  byId("plan-moves-box").open = outcome.moves.length > 0 && outcome.moves.length <= 32;
  byId("plan").hidden = false;
  byId("plan").focus();
}

async function apply() {
  const { id, outcome } = plan;
  const text = `${plan.changes.map(words).join("\n")}\n\n${plural(outcome.moves.length, "shard")} move, `
    + `${plural(outcome.sessions, "session")} are sent to other nodes. About ${grouped(outcome.seconds)} s.`
    + (outcome.stuck > 0 ? `\n\n${plural(outcome.stuck, "shard")} cannot leave: no other node takes any, and the plan does not end before one does.` : "");
  if (!(await ask(`Apply plan ${id}?`, text, "Apply"))) return;
  try {
    await post(`plan/${id}/apply`); // the one that was shown
    toast(`Plan ${id} runs.`);
    changes = [];
    drawChanges();
  } catch (error) {
    byId("plan-error").textContent = error.message;
  }
}

function kindChosen() {
  const kind = KINDS[byId("kind").value];
  byId("node").disabled = !kind.node;
  byId("value").disabled = !kind.value;
  byId("value").value = kind.value?.[1] ?? "";
  byId("value-label").textContent = kind.value?.[0] ?? "–";
}

byId("kind").append(...Object.entries(KINDS).map(([value, kind]) => el("option", { value }, kind.name)));
byId("kind").addEventListener("change", kindChosen);
kindChosen();
byId("change-form").addEventListener("submit", (event) => {
  event.preventDefault();
  try {
    changes.push(KINDS[byId("kind").value].make(byId("node").value, byId("value").value));
    drawChanges();
  } catch (error) {
    byId("plan-error").textContent = error.message;
  }
});
byId("preview").addEventListener("click", preview);
byId("discard").addEventListener("click", () => { changes = []; drawChanges(); });
byId("apply").addEventListener("click", apply);
