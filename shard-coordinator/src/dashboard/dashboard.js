// The page as a whole: who is signed in, what arrives, and what is asked for besides.

import { get, post, segment, session, watch } from "./api.js";
import { ask, byId, duration, moment, setText, toast } from "./dom.js";
import { drawMap, setNodes } from "./map.js";
import { drawFigures, drawHistory, drawHotGuilds, drawHotShards, drawMoves, drawNodes, drawWhy } from "./panels.js";
import { planOne, setPlanNodes } from "./plan.js";

const HOT_EVERY_MS = 2000;
const HISTORY_EVERY_MS = 3000;
const HOT_COUNT = 20;
const HISTORY_COUNT = 50;

let me = null;
let stop = null;
let newsAt = null;
/** Why there is no news, in words; null while there is. */
let trouble = null;
let mapShown = null;
let timers = [];
let history = [];
let historyBefore = null;

const operates = () => me?.scope === "operate";

async function start() {
  try {
    me = await get("me");
  } catch (error) {
    if (error.status === 401) return; // session.ended() shows the form
    setLink("lost", `${error.message} Trying again.`);
    setTimeout(start, 2000);
    return;
  }
  byId("login").hidden = true;
  byId("board").hidden = false;
  byId("logout").hidden = false;
  setText(byId("who"), `${me.name}${operates() ? "" : ", may only look"}, until ${moment(me.expires_at_ms)}`);
  for (const control of document.querySelectorAll(".operate")) control.disabled = !operates();
  setLink("waiting", "Connecting");
  stop = watch({
    state: arrived,
    problem: (message) => noNews(`No news: ${message}`),
    lost: () => noNews("Connection lost"),
  });
  every(HOT_EVERY_MS, refreshHot);
  every(HISTORY_EVERY_MS, refreshHistory);
  every(1000, tellAge);
}

function every(ms, act) {
  act();
  timers.push(setInterval(act, ms));
}

session.ended = () => {
  stop?.();
  stop = null;
  timers.forEach(clearInterval);
  timers = [];
  mapShown = null;
  const wasIn = me !== null;
  me = null;
  byId("board").hidden = true;
  byId("logout").hidden = true;
  byId("login").hidden = false;
  setText(byId("who"), "");
  setText(byId("leader"), "");
  setLink("waiting", "Not signed in");
  if (wasIn) byId("login-error").textContent = "The token is not valid any more. Sign in again.";
  byId("token").focus();
};

function setLink(state, text) {
  byId("link").dataset.state = state;
  setText(byId("link"), text);
  byId("board").classList.toggle("stale", state === "lost");
}

function noNews(why) {
  trouble = why;
  tellAge();
}

function tellAge() {
  if (trouble === null) return;
  const age = newsAt === null ? "" : `, as of ${duration((Date.now() - newsAt) / 1000)} ago`;
  setLink("lost", `${trouble}${age}; trying again`);
}

function arrived(state) {
  if (trouble !== null && newsAt !== null) toast("Connected again.");
  trouble = null;
  newsAt = Date.now();
  setLink("live", `Live, from ${state.coordinator}`);
  setText(byId("leader"), state.leader ? `Led by ${state.leader.holder}, term ${state.leader.term}` : "No leader: placement stands still");
  setNodes(state.nodes);
  setPlanNodes(state.nodes);
  drawFigures(state);
  drawNodes(state.nodes, state.at_ms, operates() ? ACTIONS : null);
  drawMoves(state.moves);
  byId("abort").disabled = !operates() || (!state.moves.plan && state.moves.requested.length === 0);
  byId("pause").disabled = !operates() || state.moves.paused !== null;
  if (state.map) refreshMap(state);
}

/** Every shard is asked for only when the map or its nodes have changed. */
async function refreshMap(state) {
  const shown = JSON.stringify([state.map.version, state.nodes.map((node) => node.id)]);
  if (shown === mapShown) return;
  mapShown = shown;
  try {
    drawMap(await get("map?shards=all"));
    drawMoves(state.moves);
  } catch {
    mapShown = null; // with the next state
  }
}

async function refreshHot() {
  if (trouble !== null) return;
  try {
    drawHotShards((await get(`shards?hot=${HOT_COUNT}`)).shards);
    drawHotGuilds((await get(`guilds?hot=${HOT_COUNT}`)).guilds);
  } catch {
    // The stream tells of the trouble.
  }
}

async function refreshHistory() {
  if (trouble !== null) return;
  try {
    const page = await get(`history?limit=${HISTORY_COUNT}`);
    const oldest = page.entries.at(-1)?.id;
    const older = history.filter((entry) => oldest !== undefined && entry.id < oldest);
    if (older.length === 0) historyBefore = page.next_before;
    history = [...page.entries, ...older];
    showHistory();
  } catch {
    // The stream tells of the trouble.
  }
}

function showHistory() {
  drawHistory(history);
  byId("older").hidden = historyBefore === null;
}

/** Does it if it is confirmed, and says what came of it. */
async function order(title, text, yes, path, done) {
  if (!(await ask(title, text, yes))) return;
  try {
    await post(path);
    toast(done);
    refreshHistory();
  } catch (error) {
    toast(error.message);
  }
}

const ACTIONS = {
  cordon: (node) => order(`Cordon ${node}?`, "It keeps its shards and sessions and gets no new shards.", "Cordon", `nodes/${segment(node)}/cordon`, `${node} is cordoned.`),
  uncordon: (node) => order(`Uncordon ${node}?`, "It gets shards again.", "Uncordon", `nodes/${segment(node)}/uncordon`, `${node} is no longer cordoned.`),
  undrain: (node) => order(`Undrain ${node}?`, "It gets shards and sessions again.", "Undrain", `nodes/${segment(node)}/undrain`, `${node} no longer drains.`),
  drain: (node) => planOne({ change: "drain", node, over_s: 60 }),
};

byId("pause").addEventListener("click", () => order("Pause moves?", "Only shards whose owner is gone will move.", "Pause", "pause", "Moves are paused."));
byId("resume").addEventListener("click", () => order("Resume moves?", "The plan that runs goes on.", "Resume", "resume", "Moves go on."));
byId("abort").addEventListener("click", () => order("Abort?", "The plan that runs and single moves end. What has moved stays where it is.", "Abort the plan", "abort", "Aborted."));

byId("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  byId("login-error").textContent = "";
  try {
    await post("login", { token: byId("token").value.trim() });
    byId("token").value = "";
    await start();
    byId("main").focus();
  } catch (error) {
    byId("login-error").textContent = error.message;
    byId("token").select();
  }
});

byId("logout").addEventListener("click", async () => {
  try {
    await post("logout");
    me = null;
    session.ended();
  } catch (error) {
    toast(error.message);
  }
});

byId("why-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    drawWhy(await get(`why/${segment(byId("guild").value)}`));
  } catch (error) {
    setText(byId("why"), error.message);
  }
});

byId("older").addEventListener("click", async () => {
  try {
    const page = await get(`history?limit=${HISTORY_COUNT}&before=${historyBefore}`);
    history = [...history, ...page.entries];
    historyBefore = page.next_before;
    showHistory();
  } catch (error) {
    toast(error.message);
  }
});

start();
