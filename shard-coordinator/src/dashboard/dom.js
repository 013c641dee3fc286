// What pages are made of. Text is only ever set as text, never as HTML.

export const byId = (id) => document.getElementById(id);

/** An element; `attributes` may hold `class`, `on` (listeners) and anything else. */
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(key, value === true ? "" : value);
    }
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const cell = (text, attributes = {}) => el("td", attributes, String(text));
export const number = (value) => cell(value === null || value === undefined ? "–" : grouped(value), { class: "number" });

/** Sets text only if it differs: a live region is read aloud whenever it is set. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Keeps the children of `parent` in step with `items`, by key: what did not change is not
 * touched, so that focus and selection stay. `draw(item)` makes an element.
 */
export function keep(parent, items, key, draw) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const id = String(key(item));
    const shape = JSON.stringify(item);
    let child = old.get(id);
    old.delete(id);
    if (!child || child.dataset.shape !== shape) {
      const fresh = draw(item);
      fresh.dataset.key = id;
      fresh.dataset.shape = shape;
      if (child) {
        replaceKeepingFocus(child, fresh);
        if (place === child) place = fresh;
      }
      child = fresh;
    }
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
  }
  for (const child of old.values()) child.remove();
}

/** The control of the same name gets the focus back. */
function replaceKeepingFocus(child, fresh) {
  const name = child.contains(document.activeElement) ? document.activeElement.dataset.name : null;
  child.replaceWith(fresh);
  if (name) fresh.querySelector(`[data-name="${CSS.escape(name)}"]`)?.focus();
}

const numbers = new Intl.NumberFormat("en");
export const grouped = (value) => numbers.format(value);
export const plural = (value, what) => `${grouped(value)} ${what}${value === 1 ? "" : "s"}`;
export const thousandths = (milli) => (milli / 1000).toFixed(3);
export const version = (map) => `${map.term}.${map.version}`;
export const shardName = (shard) => String(shard).padStart(4, "0");

export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 120) return `${whole} s`;
  if (whole < 7200) return `${Math.round(whole / 60)} min`;
  return `${Math.round(whole / 3600)} h`;
}

export function moment(ms) {
  const at = new Date(ms);
  const two = (value) => String(value).padStart(2, "0");
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} `
    + `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

/** Asks in a dialog; true if the answer is yes. */
export function ask(title, text, yes) {
  const dialog = byId("ask");
  byId("ask-title").textContent = title;
  byId("ask-text").textContent = text;
  byId("ask-yes").textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

let toastTimer;
/** A sentence that goes away by itself. */
export function toast(text) {
  byId("toast").textContent = text;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { byId("toast").textContent = ""; }, 6000);
}
