"use strict";
// The page of one run or several: filters, pages and opens groups, draws charts, and follows a live run.
// What a policy wrote is only ever set as text, never as HTML.

const PAGE = 25;
const STOPS = ["length", "stop", "fixed"];
const byId = (id) => document.getElementById(id);
const about = JSON.parse(byId("about").textContent);
const many = about.runs.length > 1;

// ---- Where groups come from: packed in this page, or asked of the server ----

const unpack = async (id) => {
  const bytes = Uint8Array.from(atob(byId(id).textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
};
const ask = async (path) => {
  const answer = await fetch(path, { cache: "no-store" });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
};

const state = { runs: [], shown: [], page: 0, open: null, found: null, turn: 0 };

function newRun(index, generation) {
  return { index, generation, chunks: new Map(), texts: null };
}

function chunk(run, number) {
  const { chunks, generation } = state.runs[run];
  if (!chunks.has(number)) {
    const path = `groups/${run}/chunk/${number}?generation=${generation}`;
    const loading = about.live ? ask(path) : unpack(`chunk-${run}-${number}`);
    chunks.set(number, loading);
    loading.catch(() => chunks.delete(number));
  }
  return chunks.get(number);
}

async function group(run, place) {
  const rows = await chunk(run, Math.floor(place / about.chunk));
  return rows[place % about.chunk];
}

/** Places of the groups of a run that contain a text. */
async function search(run, text) {
  if (about.live) return new Set(await ask(`groups/${run}/search?text=${encodeURIComponent(text)}`));
  const own = state.runs[run];
  if (own.texts === null) {
    own.texts = [];
    const count = Math.ceil(own.index.step.length / about.chunk);
    for (let number = 0; number < count; number += 1) {
      for (const row of await unpack(`chunk-${run}-${number}`)) {
        own.texts.push(row ? [row.prompt, row.answer ?? "", ...new Set(row.texts)].join("\n").toLowerCase() : "");
      }
    }
  }
  const needle = text.toLowerCase();
  const found = new Set();
  own.texts.forEach((each, place) => { if (each.includes(needle)) found.add(place); });
  return found;
}

// ---- Filters ----

const chosen = (id) => byId(id)?.value ?? "";

const ORDERS = {
  new: (index) => index.step.map((step) => -step),
  old: (index) => index.step,
  distance: (index) => index.distance.map((number) => -(number ?? -1)),
  missed: (index) => index.missed.map((number) => -(number ?? -1)),
  moved: (index) => index.moved.map((number) => -number),
  low: (index) => index.mean,
};

async function filter() {
  const turn = (state.turn += 1);
  const text = chosen("f-text").trim();
  let found = null;
  if (text) {
    byId("count").textContent = "searching …";
    found = await Promise.all(state.runs.map((_, run) => search(run, text)));
    if (turn !== state.turn) return;
  }
  const zero = chosen("f-zero"), stop = chosen("f-stop"), source = chosen("f-source"), only = chosen("f-run");
  const from = Number(chosen("f-from") || 0), to = Number(chosen("f-to") || Infinity);
  const keep = [];
  state.runs.forEach(({ index }, run) => {
    if (only !== "" && Number(only) !== run) return;
    const key = ORDERS[chosen("f-order")](index);
    const place = source === "" ? -1 : index.sources.indexOf(source);
    if (source !== "" && place < 0) return;
    for (let i = 0; i < index.step.length; i += 1) {
      if (index.step[i] < from || index.step[i] > to) continue;
      if (zero !== "" && index.zero[i] !== Number(zero)) continue;
      if (stop !== "" && !(index.stops[i] & (1 << Number(stop)))) continue;
      if (source !== "" && index.source[i] !== place) continue;
      if (found !== null && !found[run].has(i)) continue;
      keep.push({ run, place: i, key: key[i] });
    }
  });
  keep.sort((a, b) => a.key - b.key || a.place - b.place || a.run - b.run);
  state.shown = keep;
  state.page = Math.min(state.page, Math.max(0, Math.ceil(keep.length / PAGE) - 1));
  show();
}

const later = (action, wait) => {
  let timer = 0;
  return () => { clearTimeout(timer); timer = setTimeout(action, wait); };
};
const restart = () => { state.page = 0; state.open = null; filter(); };

// ---- The list ----

function make(tag, properties = {}, ...children) {
  const { class: kind, ...others } = properties;
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  for (const [name, value] of Object.entries(others)) {
    if (name in element) element[name] = value; else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Characters that would not show, or would turn the text around, as something that shows. */
const visible = (text) => text
  .replace(/[\u0000-\u0008\u000b-\u001f]/g, (letter) => String.fromCharCode(0x2400 + letter.charCodeAt(0)))
  .replace(/[\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g,
    (letter) => `⟨U+${letter.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);

const number = (value, digits = 3) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const keyOf = ({ run, place }) => `${run}-${state.runs[run].index.step[place]}-${state.runs[run].index.draw[place]}`;

function show() {
  const pages = Math.max(1, Math.ceil(state.shown.length / PAGE)), first = state.page * PAGE;
  const total = state.runs.reduce((sum, { index }) => sum + index.step.length, 0);
  const of = state.shown.length === total ? "" : ` of ${total.toLocaleString("en")}`;
  byId("count").textContent =
    `${state.shown.length.toLocaleString("en")}${of} groups, page ${state.page + 1} of ${pages}`;
  byId("previous").disabled = state.page === 0;
  byId("next").disabled = state.page >= pages - 1;
  const focused = document.activeElement?.dataset?.key;
  const rows = state.shown.slice(first, first + PAGE).map(rowOf);
  byId("list").replaceChildren(...rows);
  byId("list").start = first + 1;
  if (focused) byId("list").querySelector(`[data-key="${focused}"]`)?.focus({ preventScroll: true });
}

function rowOf(item) {
  const { index } = state.runs[item.run], i = item.place, key = keyOf(item);
  const head = make("button", { type: "button", class: "row", "aria-expanded": "false" });
  head.dataset.key = key;
  if (many) head.append(make("span", { class: "badge", textContent: about.runs[item.run] }));
  head.append(
    make("span", { class: "step", textContent: `step ${index.step[i]}` }),
    make("span", { class: "snippet", dir: "auto", textContent: visible(index.snippet[i]) }),
    make("span", { class: "score", textContent: `score ${number(index.mean[i], 2)}`, title: "mean of the group" }),
    make("span", {
      class: "moved",
      textContent: index.distance[i] === null ? `moved ${number(index.moved[i], 2)}` : `Σ|q−p| ${number(index.distance[i], 2)}`,
    }),
  );
  if (index.zero[i]) head.append(make("span", { class: "tag", textContent: "zero variance" }));
  if (index.stops[i] & 1) head.append(make("span", { class: "tag", textContent: "cut off" }));
  if (many) head.style.setProperty("--run", `var(--run-${item.run % 8})`);
  const body = make("div", { class: "detail", id: `detail-${key}`, hidden: true });
  head.setAttribute("aria-controls", body.id);
  const element = make("li", {}, head, body);
  head.addEventListener("click", () => toggle(item, head, body));
  if (state.open === key) toggle(item, head, body);
  return element;
}

async function toggle(item, head, body) {
  const opening = body.hidden;
  for (const other of byId("list").querySelectorAll('.row[aria-expanded="true"]')) {
    other.setAttribute("aria-expanded", "false");
    other.nextElementSibling.hidden = true;
    other.nextElementSibling.replaceChildren();
  }
  state.open = opening ? head.dataset.key : null;
  if (!opening) return;
  head.setAttribute("aria-expanded", "true");
  body.hidden = false;
  body.textContent = "reading …";
  try {
    const parts = [detail(await group(item.run, item.place))];
    for (const other of await twins(item)) {
      parts.push(make("h4", { textContent: `The same prompt in ${about.runs[other.run]}` }),
        detail(await group(other.run, other.place)));
    }
    if (state.open === head.dataset.key) body.replaceChildren(...parts);
  } catch (error) {
    body.textContent = `This group cannot be shown (${error.message}).`;
  }
}

/** The same draw in the other runs, where it is the same prompt. */
async function twins({ run, place }) {
  const { index } = state.runs[run];
  return state.runs.flatMap((other, number_) => {
    const at = number_ === run ? -1 : other.index.draw.indexOf(index.draw[place]);
    return at >= 0 && other.index.snippet[at] === index.snippet[place] ? [{ run: number_, place: at }] : [];
  });
}

// ---- One group ----

function detail(row) {
  if (!row) return make("p", { textContent: "This group is not kept any more." });
  const facts = [
    `step ${row.step}`, `draw ${row.draw}`, row.source, `sampled by version ${row.version}`,
    `staleness ${row.staleness}`, row.zero_variance ? "zero variance: all scores are equal, nothing is preferred" : null,
    row.position === null ? null : `position ${row.position}`,
    row.distance === null ? "no target: the method has advantages" : `Σ|q−p old| ${number(row.distance)}`,
  ].filter(Boolean);
  const merged = merge(row, byId("f-merge").checked);
  const top = Math.max(1e-9, ...merged.flatMap((one) => [one.p_old, one.q ?? 0, one.p_after]));
  return make("div", { class: "group" },
    make("p", { class: "facts", textContent: facts.join(" · ") }),
    make("div", { class: "asked" },
      make("div", {}, make("h4", { textContent: "prompt" }), make("pre", { dir: "auto", textContent: visible(row.prompt) })),
      row.answer === null ? "" : make("div", {}, make("h4", { textContent: "right answer" }),
        make("pre", { dir: "auto", textContent: visible(row.answer) }))),
    make("ul", { class: "candidates", "aria-label": "candidates" }, ...merged.map((one) => card(one, top))));
}

/** One entry for each candidate, or for all that are equal in text, score and ending; most mass gained first. */
function merge(row, equal) {
  const found = new Map();
  row.texts.forEach((text, i) => {
    const key = equal ? JSON.stringify([text, row.scores[i], row.stops[i]]) : i;
    const one = found.get(key) ?? {
      text, score: row.scores[i], stop: row.stops[i], length: row.lengths[i], count: 0, p_old: 0, p_after: 0,
      q: row.q ? 0 : null, advantage: row.advantages ? row.advantages[i] : null,
      logp: row.logps_after[i] === null || row.logps_old[i] === null ? null : row.logps_after[i] - row.logps_old[i],
    };
    one.count += 1;
    one.p_old += row.p_old[i] ?? 0;
    one.p_after += row.p_after[i] ?? 0;
    if (row.q) one.q += row.q[i] ?? 0;
    found.set(key, one);
  });
  return [...found.values()].sort((a, b) => (b.p_after - b.p_old) - (a.p_after - a.p_old));
}

function card(one, top) {
  const gain = one.p_after - one.p_old, flat = Math.abs(gain) < 5e-4;
  const word = flat ? "unchanged" : gain > 0 ? `▲ gained ${number(gain)}` : `▼ lost ${number(-gain)}`;
  const bars = make("dl", { class: "bars" });
  for (const [name, value] of [["p old", one.p_old], ["q", one.q], ["p after", one.p_after]]) {
    if (value === null) continue;
    const bar = make("span", { class: "bar" });
    bar.style.inlineSize = `${Math.max(0, Math.min(100, (100 * value) / top))}%`;
    bars.append(make("dt", { textContent: name }), make("dd", {}, make("span", { class: "track" }, bar), number(value)));
  }
  const about_ = [`${one.length} token${one.length === 1 ? "" : "s"}`, one.stop,
    one.logp === null ? null : `Δ log p ${number(one.logp, 2)}`,
    one.advantage === null ? null : `advantage ${number(one.advantage, 2)}`].filter(Boolean);
  return make("li", { class: `card ${flat ? "same" : gain > 0 ? "gained" : "lost"}` },
    make("p", { class: "head" },
      make("b", { textContent: `score ${number(one.score, 2)}` }),
      one.count > 1 ? make("span", { class: "tag", textContent: `× ${one.count}` }) : "",
      make("span", { class: "gain", textContent: word })),
    make("pre", { class: "text", dir: "auto", tabIndex: one.text.length > 400 ? 0 : -1,
      textContent: one.text === "" ? "(empty)" : visible(one.text) }),
    bars,
    make("p", { class: "facts", textContent: about_.join(" · ") }));
}

// ---- Keyboard ----

function turn(by) {
  const pages = Math.ceil(state.shown.length / PAGE), next = state.page + by;
  if (next < 0 || next >= pages) return false;
  state.page = next;
  state.open = null;
  show();
  return true;
}

byId("list").addEventListener("keydown", (event) => {
  if (!event.target.matches?.(".row")) return;
  const rows = [...byId("list").querySelectorAll(".row")], at = rows.indexOf(event.target);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[event.key];
  if (to !== undefined) {
    event.preventDefault();
    rows[to]?.focus();
  } else if (event.key === "PageDown" || event.key === "PageUp") {
    event.preventDefault();
    if (turn(event.key === "PageDown" ? 1 : -1)) byId("list").querySelector(".row")?.focus();
  }
});
byId("previous").addEventListener("click", () => turn(-1));
byId("next").addEventListener("click", () => turn(1));
const filters = byId("filters");
filters.addEventListener("input", later(restart, 120));
filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("reset", () => setTimeout(restart));

// ---- Charts ----

const dark = matchMedia("(prefers-color-scheme: dark)");

function paint(doc) {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink").trim(), faint = style.getPropertyValue("--faint").trim();
  for (const plot of doc.roots()) {
    for (const axis of [...plot.below, ...plot.left]) {
      if ("major_label_text_color" in axis) {
        axis.setv({ major_label_text_color: ink, axis_label_text_color: ink, axis_line_color: faint,
          major_tick_line_color: faint, minor_tick_line_color: null });
      } else if ("label_text_color" in axis) axis.setv({ label_text_color: ink });
    }
  }
}

const drawn = [];

async function draw() {
  for (let number_ = 0; byId(`chart-${number_}`); number_ += 1) {
    const item = about.live ? await ask(`charts/${number_}`) : JSON.parse(byId(`charts-${number_}`).textContent);
    await Bokeh.embed.embed_item(item, `chart-${number_}`);
    const doc = Bokeh.documents[Bokeh.documents.length - 1];
    paint(doc);
    drawn.push(doc);
    await new Promise((done) => setTimeout(done));  // clicks go first
  }
  document.documentElement.dataset.charts = "drawn";
}
dark.addEventListener("change", () => drawn.forEach(paint));

// ---- A live run ----

async function follow() {
  let seen = "";
  for (;;) {
    await new Promise((done) => setTimeout(done, 2000));
    try {
      const now = await ask("state");
      byId("live").textContent = `live: ${now.runs.map((run) => `${run.word} at step ${run.step}`).join(", ")}`;
      if (now.stamp === seen) continue;
      await refresh(now);
      seen = now.stamp;
    } catch (error) {
      byId("live").textContent = `the server does not answer (${error.message})`;
    }
  }
}

async function refresh(now) {
  const answer = await fetch("sections", { cache: "no-store" });
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");  // our own server's, and no scripts
  for (const id of ["overview", "sections"]) {
    const old = byId(id), opened = byId("all-keys")?.open;
    if (fresh.getElementById(id)) old.replaceWith(document.adoptNode(fresh.getElementById(id)));
    if (opened && id === "sections") byId("all-keys").open = true;
  }
  const columns = await ask("charts");
  columns.forEach((runs, number_) => runs.forEach((data, run) => {
    const source = drawn[number_]?.get_model_by_name(`run${run}`);
    const whole = Object.fromEntries(Object.entries(data).map(([name, list]) => [name, list.map((one) => one ?? NaN)]));
    if (source) source.data = whole;
  }));
  if (now.charts !== columns.length || drawn.length !== columns.length) location.reload();  // a chart has come
  await load(now);
}

async function load(now) {
  for (let run = 0; run < about.runs.length; run += 1) {
    const known = state.runs[run], generation = now?.runs[run].generation ?? 0;
    const count = now?.runs[run].groups ?? -1;
    if (known && known.generation === generation && known.index.step.length === count) continue;
    const index = about.live ? await ask(`groups/${run}/index`) : await unpack(`index-${run}`);
    state.runs[run] = newRun(index, generation);
  }
  const names = new Set(state.runs.flatMap(({ index }) => index.sources)), select = byId("f-source");
  const known = new Set([...select.options].map((option) => option.value));
  for (const name of [...names].sort()) {
    if (!known.has(name)) select.append(make("option", { value: name, textContent: visible(name) }));
  }
  await filter();
}

async function start() {
  try {
    const now = about.live ? await ask("state") : null;
    await load(now);
    document.documentElement.dataset.groups = "shown";
  } catch (error) {
    byId("count").textContent = `the groups cannot be read (${error.message})`;
  }
}

start();
addEventListener("load", () => setTimeout(async () => {
  await draw();
  if (about.live) follow();
}));
