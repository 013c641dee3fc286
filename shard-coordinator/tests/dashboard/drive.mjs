// Uses the operators' page as a person would; the Rust test `dashboard.rs` runs it.
//
// DASHBOARD_URL, OPERATE_TOKEN, READ_TOKEN: a coordinator with gateway-1 and gateway-2, and
// tokens for it. CHROMIUM: the browser. SCREENSHOTS: a folder to leave pictures in, if set.
// Prints `stop` and `start` when the coordinator is to be stopped and started again.

import assert from "node:assert/strict";
import path from "node:path";
import process from "node:process";
import { chromium } from "playwright-core";

const { DASHBOARD_URL, OPERATE_TOKEN, READ_TOKEN, CHROMIUM, SCREENSHOTS } = process.env;
const PATIENCE_MS = 30_000;

const browser = await chromium.launch({
  executablePath: CHROMIUM,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});

/** A page of its own browser profile, and what went wrong on it. */
async function open(colorScheme) {
  const context = await browser.newContext({ viewport: { width: 1360, height: 900 }, colorScheme });
  context.setDefaultTimeout(PATIENCE_MS);
  const page = await context.newPage();
  const faults = [];
  page.on("pageerror", (error) => faults.push(error.message));
  page.on("console", (message) => {
    // Chromium logs refused and broken requests as errors; everything else is ours.
    if (message.type() === "error" && !message.text().startsWith("Failed to load resource")
      && !message.text().includes("net::ERR_")) faults.push(message.text());
  });
  const outside = [];
  page.on("request", (request) => {
    if (!request.url().startsWith(DASHBOARD_URL) && !request.url().startsWith("data:")) outside.push(request.url());
  });
  await page.goto(DASHBOARD_URL);
  return { page, faults, outside };
}

async function signIn(page, token) {
  await page.getByLabel("Token").fill(token);
  await page.getByRole("button", { name: "Sign in" }).click();
}

async function picture(page, name) {
  if (SCREENSHOTS) await page.screenshot({ path: path.join(SCREENSHOTS, `${name}.png`), fullPage: true });
}

const legend = (page, text) => page.locator("#legend button", { hasText: text });
/** Waits until the map shows that a node owns shards; how many. */
async function owned(page, node) {
  const entry = page.locator("#legend button").filter({ hasText: new RegExp(`${node} · [1-9]`) });
  return Number((await entry.textContent()).split(" · ")[1]);
}
const row = (page, node) => page.locator("#nodes tbody tr", { hasText: node });

async function everyControlHasAName(page) {
  const nameless = await page.evaluate(() => [...document.querySelectorAll("button, input, select")]
    .filter((control) => !control.ariaLabel && !control.labels?.length && !control.textContent.trim() && control.id !== "ask-yes")
    .map((control) => control.outerHTML));
  assert.deepEqual(nameless, []);
}

async function drainsANode() {
  const { page, faults, outside } = await open("light");
  await page.keyboard.press("Tab");
  await signIn(page, "junk");
  await page.locator("#login-error").filter({ hasText: /\w/ }).waitFor();
  await signIn(page, OPERATE_TOKEN);

  await page.locator('#link[data-state="live"]').waitFor();
  for (const node of ["gateway-1", "gateway-2"]) {
    await row(page, node).filter({ hasText: "Active" }).waitFor();
  }
  const first = await owned(page, "gateway-1");
  assert.equal(first + await owned(page, "gateway-2"), 256);
  await everyControlHasAName(page);
  await picture(page, "1-before");

  await page.getByRole("button", { name: "Drain gateway-1" }).click();
  await page.locator("#plan-figures").filter({ hasText: `${first} shards` }).waitFor();
  assert.equal(await page.locator("#plan-moves tr").count(), first, "every move is shown");
  await picture(page, "2-plan");

  await page.getByRole("button", { name: "Apply…" }).click();
  await page.getByRole("dialog").filter({ hasText: `${first} shards move` }).waitFor();
  await picture(page, "3-question");
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "hidden" });
  assert.equal(await owned(page, "gateway-1"), first); // Escape is a no

  await page.getByRole("button", { name: "Apply…" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Apply", exact: true }).click();
  await row(page, "gateway-1").filter({ hasText: "Draining" }).waitFor();
  await legend(page, "gateway-2 · 256").waitFor();
  await legend(page, "gateway-1 · 0").waitFor();
  await page.locator("#history tr", { hasText: "plan apply" }).filter({ hasText: "ann" }).first().waitFor();
  await picture(page, "4-drained");

  await page.getByLabel("Where is guild").fill("1180000000000000002");
  await page.getByRole("button", { name: "Find" }).click();
  await page.locator("#why").filter({ hasText: "served by gateway-2" }).filter({ hasText: "Lag of its owner" }).waitFor();

  console.log("stop");
  await page.locator("#link").filter({ hasText: "Connection lost" }).waitFor();
  await picture(page, "5-lost");
  console.log("start");
  await page.locator('#link[data-state="live"]').waitFor();
  await legend(page, "gateway-2 · 256").waitFor();

  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByLabel("Token").waitFor();
  await page.reload();
  await page.getByLabel("Token").waitFor(); // the cookie is gone
  assert.deepEqual(faults, []);
  assert.deepEqual(outside, [], "nothing is asked for elsewhere");
  await page.context().close();
}

async function aPreviewOfRemovedChangesIsNotShown() {
  const { page, faults } = await open("light");
  await signIn(page, OPERATE_TOKEN);
  await row(page, "gateway-2").filter({ hasText: "Active" }).waitFor();
  let release;
  const held = new Promise((resolve) => { release = resolve; });
  await page.route("**/admin/v1/plan", async (route) => {
    await held;
    await route.continue();
  });
  await page.getByRole("button", { name: "Drain gateway-2", exact: true }).click();
  await page.getByRole("button", { name: "Remove: Drain gateway-2" }).click();
  const late = page.waitForResponse((response) => response.url().endsWith("/admin/v1/plan"));
  release();
  await (await late).finished();
  await page.waitForTimeout(300);
  assert.ok(await page.locator("#plan").isHidden());
  assert.deepEqual(faults, []);
  await page.context().close();
}

/** The other node drains already. */
async function aDrainThatCannotEndSaysSo() {
  const { page, faults } = await open("light");
  await signIn(page, OPERATE_TOKEN);
  await row(page, "gateway-2").filter({ hasText: "Active" }).waitFor();
  await page.getByRole("button", { name: "Drain gateway-2", exact: true }).click();
  await page.locator("#plan-figures").filter({ hasText: "256 shards: no other node takes any" }).waitFor();
  await page.getByRole("button", { name: "Apply…" }).click();
  await page.getByRole("dialog").filter({ hasText: "256 shards cannot leave" }).waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "hidden" });
  assert.deepEqual(faults, []);
  await page.context().close();
}

async function aCoordinatorWithoutPostgresSaysSo() {
  const { page, faults } = await open("light");
  const problem = JSON.stringify({ code: "no_postgres", message: "Postgres does not answer" });
  await page.route("**/admin/v1/events", (route) => route.fulfill({
    contentType: "text/event-stream",
    body: `event: problem\ndata: ${problem}\n\n`,
  }));
  await signIn(page, READ_TOKEN);
  await page.locator('#link[data-state="lost"]').filter({ hasText: "Postgres does not answer" }).waitFor();
  assert.deepEqual(faults, []);
  await page.context().close();
}

async function readersMayOnlyLook() {
  const { page, faults } = await open("dark");
  await signIn(page, READ_TOKEN);
  await row(page, "gateway-1").waitFor();
  await legend(page, "gateway-2").first().waitFor();
  assert.equal(await row(page, "gateway-1").getByRole("button").count(), 0);
  for (const name of ["Pause", "Abort", "Add to the plan"]) {
    assert.ok(await page.getByRole("button", { name }).isDisabled(), name);
  }
  await picture(page, "6-reader");
  assert.deepEqual(faults, []);
  await page.context().close();
}

try {
  await drainsANode();
  await aPreviewOfRemovedChangesIsNotShown();
  await aDrainThatCannotEndSaysSo();
  await aCoordinatorWithoutPostgresSaysSo();
  await readersMayOnlyLook();
} finally {
  await browser.close();
}
