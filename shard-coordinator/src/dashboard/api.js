// Requests to the coordinator that served the page, and its stream of states.

const PREFIX = "admin/v1/";
/** Times between tries to open the stream again, in ms; the last one stays. */
const RETRY_MS = [300, 1000, 2000, 4000];
/** A stream without news for so long is broken: it has a state every second. */
const SILENCE_MS = 10000;
/** A coordinator that takes longer to answer counts as lost. */
const GRACE_MS = 1500;
/** Longest wait for an answer. */
const ANSWER_MS = 15000;

/** A refusal: the coordinator's code and sentence. */
export class Refusal extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Set once by the page: what to do when the token is no longer valid. */
export const session = { ended: () => {} };

export async function request(method, path, body) {
  // The header shows that the request is not another site's.
  const headers = method === "GET" ? {} : { "X-Guildhall": "1" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(PREFIX + path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
      cache: "no-store",
      signal: AbortSignal.timeout(ANSWER_MS),
    });
  } catch {
    throw new Refusal(0, "unreachable", "The coordinator does not answer.");
  }
  let answer = null;
  try {
    const text = await response.text();
    answer = text === "" ? null : JSON.parse(text);
  } catch {
    throw new Refusal(response.status, "unreadable", `The answer ${response.status} cannot be read.`);
  }
  if (response.ok) return answer;
  if (response.status === 401 && path !== "login") session.ended();
  throw new Refusal(response.status, answer?.code ?? "other", answer?.message ?? `Status ${response.status}.`);
}

export const get = (path) => request("GET", path);
export const post = (path, body) => request("POST", path, body);
export const segment = encodeURIComponent;

/**
 * Calls `state` with each state, `problem` with the sentence of a coordinator that has none, and
 * `lost` when the connection breaks; opens it again by itself. Returns what ends it.
 */
export function watch({ state, problem, lost }) {
  let source = null;
  let tries = 0;
  let timer = null;
  let silence = null;
  let over = false;

  function open() {
    source = new EventSource(`${PREFIX}events`);
    listen();
    source.addEventListener("state", (event) => {
      tries = 0;
      listen();
      state(JSON.parse(event.data));
    });
    source.addEventListener("problem", (event) => {
      tries = 0;
      listen();
      problem(JSON.parse(event.data).message);
    });
    source.addEventListener("error", broken);
  }

  function listen() {
    clearTimeout(silence);
    silence = setTimeout(broken, SILENCE_MS);
  }

  async function broken() {
    if (over) return;
    source?.close();
    clearTimeout(silence);
    clearTimeout(timer);
    // A stream ends now and then, and does not say why: this request tells whether the
    // coordinator is there and the token still valid.
    const grace = setTimeout(lost, GRACE_MS);
    let answers = true;
    await get("me").catch((error) => { answers = error.status !== 0; });
    clearTimeout(grace);
    if (over) return;
    if (!answers || tries > 0) lost();
    timer = setTimeout(open, RETRY_MS[Math.min(tries, RETRY_MS.length - 1)]);
    tries += 1;
  }

  open();
  return () => {
    over = true;
    source?.close();
    clearTimeout(timer);
    clearTimeout(silence);
  };
}
