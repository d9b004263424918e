"use strict";
// Everything that is told is put into the page as text, never as markup.
const WORDS = {
  "in force": "What holds now: what the configuration wants, with what operators and agents said laid over it, and what is seen of the server.",
  "wanted": "What the configuration file, or the flags, want of the backend.",
  "override": "What an operator said at run time (dispatcher ctl). It holds until the file says something else, it expires, or it is taken back.",
  "observed": "What probes, checks and the agent have found out. “differs”: workers do not agree.",
  "backend": "A server that connections are led to.",
  "draining": "It is given its own sessions, and no new ones.",
  "flows": "Connections that are open, or have been over for some seconds at most.",
  "conn/s": "Connections that ended, each second.",
  "resumed": "Of the TLS connections that ended: how many continued an earlier session, which saves both sides a full handshake.",
  "slots": "Of the limits of the backend: connections and units of handshakes in use. A resumed handshake is one unit, a full one ten.",
  "pools": "The groups the backend stands in, with its weight in each.",
  "ticket keys": "A server seals session tickets with a key. The first 16 bytes of a ticket name it, so the server is known by it.",
  "shared": "Several backends use the key: each of them can resume the sessions of the others.",
  "known for": "Since when the dispatcher has known the key. A server that takes new keys now and then has a young one.",
  "kind": "How a client names the session it wants to resume: session ID and ticket (up to TLS 1.2), or PSK (TLS 1.3).",
  "offered": "Connections that offered to resume a session.",
  "promised": "The tables had named this backend for the session.",
  "accepted": "The backend resumed the session.",
  "refused": "The backend did not resume the session (queues: no place was left to wait in).",
  "broken": "Refused, although the tables had said that the backend could resume it.",
  "unknown": "Nothing was known of the session that was offered.",
  "class": "Requests of one kind, which wait in a line of their own.",
  "waiting": "Requests that wait for room at a backend now.",
  "admitted": "Requests that were given room.",
  "spilled": "Admitted at another backend than the one that has the session.",
  "abandoned": "Clients that gave up while they waited.",
  "timed out": "Requests that waited for as long as their class allows.",
  "reason": "Why frames came to nothing; docs/operating.md lists all.",
  "answered": "Of these: frames that were answered by a reset.",
  "busy": "Turns of the worker's loop that found frames.",
  "longest turn": "The longest turn of the loop that had frames: for so long nothing else was done.",
  "affinity": "Whether clients are led to the server that can resume their session.",
  "balance": "How a server is chosen for a client without a session.",
};
const EVERY = 2000, KEPT = 150, ROWS = 100;
const byId = id => document.getElementById(id);

function make(tag, parent, text, className) {
  const e = tag === "svg" || tag === "path" ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  if (text !== undefined && text !== null) e.textContent = text;
  if (className) e.setAttribute("class", className);
  if (parent) parent.append(e);
  return e;
}
function put(e, text) { if (e.textContent !== text) e.textContent = text; }

// Numbers and times as people read them.
function number(n) {
  if (n === null || n === undefined || !isFinite(n)) return "–";
  for (const [least, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (n >= least) { const v = n / (unit === "k" ? 1e3 : least); return v.toFixed(v < 100 ? 1 : 0) + "\u00a0" + unit; }
  }
  return n >= 100 || Number.isInteger(n) ? String(Math.round(n)) : n.toFixed(1);
}
function percent(part, whole) { return whole > 0 ? (100 * part / whole).toFixed(part === whole ? 0 : 1) + "\u00a0%" : "–"; }
function time(s) {
  if (s === null || s === undefined) return "";
  if (s < 0.001) return Math.round(s * 1e6) + "\u00a0µs";
  if (s < 1) return Math.round(s * 1e3) + "\u00a0ms";
  if (s < 120) return Math.round(s) + "\u00a0s";
  if (s < 7200) return Math.round(s / 60) + "\u00a0min";
  return s < 172800 ? Math.round(s / 3600) + "\u00a0h" : Math.round(s / 86400) + "\u00a0days";
}

// Words are explained to a pointer, to the keyboard and to screen readers.
const tip = byId("tip");
function wordId(word) { return "word-" + word.replace(/[^a-z]/g, "-"); }
for (const [word, text] of Object.entries(WORDS)) {
  make("dt", byId("words"), word);
  make("dd", byId("words"), text).id = wordId(word);
}
function explain(e, word) {
  if (!WORDS[word]) return;
  e.setAttribute("aria-describedby", wordId(word));
  const show = () => {
    tip.textContent = WORDS[word];
    tip.hidden = false;
    const at = e.getBoundingClientRect(), own = tip.getBoundingClientRect();
    tip.style.left = Math.max(8, Math.min(at.left, innerWidth - own.width - 8)) + "px";
    tip.style.top = (at.bottom + own.height + 8 < innerHeight ? at.bottom + 6 : at.top - own.height - 6) + "px";
  };
  const hide = () => { tip.hidden = true; };
  e.addEventListener("mouseenter", show);
  e.addEventListener("focus", show);
  e.addEventListener("mouseleave", hide);
  e.addEventListener("blur", hide);
}
addEventListener("keydown", e => { if (e.key === "Escape") tip.hidden = true; });
addEventListener("scroll", () => { tip.hidden = true; }, true);

// A figure with its course.
function card(title, word) {
  const section = make("section", byId("cards"));
  const h = make("h2", section);
  if (word) { const b = make("button", h, title, "term"); b.type = "button"; explain(b, word); } else h.textContent = title;
  const value = make("p", section, "–", "value");
  const svg = make("svg", section);
  svg.setAttribute("viewBox", "0 0 100 40");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", title);
  const area = make("path", svg, null, "plot-area"), line = make("path", svg, null, "plot-line");
  const past = [];
  return (n, text) => {
    put(value, text);
    past.push(n);
    if (past.length > KEPT) past.shift();
    while (past.length && past[0] === null) past.shift();
    svg.setAttribute("aria-label", title + ": " + text);
    if (!past.length) return;
    const known = past.filter(v => v !== null), span = Math.max(30, past.length) - 1;
    const top = Math.max(1e-9, ...known);
    svg.setAttribute("aria-label", title + ": " + text + ", at most " + number(Math.max(0, ...known)) + " in the last " + time(past.length * EVERY / 1000));
    const points = past.map((v, i) => (100 - (past.length - 1 - i) * 100 / span).toFixed(2) + " " + (39 - 37 * (v || 0) / top).toFixed(2));
    line.setAttribute("d", "M" + points.join("L"));
    area.setAttribute("d", "M" + points.join("L") + "L100 40L" + points[0].split(" ")[0] + " 40Z");
  };
}

// A table with columns {title, word, of(row) -> text or node-maker, sort(row), number}, whose rows are known by key(row).
const tables = [];
function table(title, columns, options) {
  const section = make("section", byId("tables"));
  const h = make("h2", section, title + " ");
  const count = make("span", h, "", "count");
  h.id = "table-" + tables.length;
  const wide = make("div", section, null, "wide");
  wide.tabIndex = 0;
  wide.setAttribute("role", "region");
  wide.setAttribute("aria-labelledby", h.id);
  const t = make("table", wide);
  t.setAttribute("aria-labelledby", h.id);
  const head = make("tr", make("thead", t)), body = make("tbody", t);
  const more = make("button", section, "", "plain more");
  more.type = "button";
  const lines = new Map();
  let by = options.by || 0, down = !!options.down, all = false, rows = [];
  const heads = columns.map((c, i) => {
    const th = make("th", head, null, c.number ? "number" : "");
    th.scope = "col";
    const b = make("button", th, c.title, "sort"), arrow = make("span", null, null, "arrow");
    if (c.number) b.prepend(arrow); else b.append(arrow);
    b.type = "button";
    explain(b, c.word || c.title.toLowerCase());
    b.addEventListener("click", () => { down = by === i ? !down : !!c.number; by = i; draw(); });
    return th;
  });
  more.addEventListener("click", () => { all = !all; draw(); });
  function draw() {
    const wanted = byId("filter").value.trim().toLowerCase();
    const seen = rows.filter(r => !wanted || options.text(r).toLowerCase().includes(wanted));
    const value = columns[by].sort || columns[by].of;
    const order = seen.map(r => [value(r), r]).sort(([a], [b]) =>
      (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true })) * (down ? -1 : 1));
    heads.forEach((th, i) => { if (i === by) th.setAttribute("aria-sort", down ? "descending" : "ascending"); else th.removeAttribute("aria-sort"); });
    const shown = all ? order : order.slice(0, ROWS);
    const left = new Set(lines.keys());
    let after = null;
    for (const [, r] of shown) {
      const key = options.key(r);
      left.delete(key);
      let line = lines.get(key);
      if (!line) {
        line = make("tr");
        columns.forEach((c, i) => {
          const cell = make(i === 0 ? "th" : "td", line, null, c.number ? "number" : c.wrap ? "wrap" : c.tight ? "tight" : "");
          if (i === 0) cell.scope = "row";
        });
        lines.set(key, line);
      }
      columns.forEach((c, i) => cell(line.children[i], c.of(r)));
      const place = after ? after.nextSibling : body.firstChild;
      if (place !== line) body.insertBefore(line, place);
      after = line;
    }
    for (const key of left) { lines.get(key).remove(); lines.delete(key); }
    put(count, seen.length === rows.length ? String(rows.length) : seen.length + " of " + rows.length);
    section.hidden = rows.length === 0 && !options.always;
    more.hidden = seen.length <= ROWS;
    put(more, all ? "Show the first " + ROWS : "Show all " + seen.length);
  }
  tables.push(draw);
  return fresh => { rows = fresh; draw(); };
}
// What stands in a cell: text, or a list of [text, class of a badge] and texts in small.
function cell(td, says) {
  const parts = Array.isArray(says) ? says.filter(Boolean) : [String(says)];
  const mark = JSON.stringify(parts);
  if (td.says === mark) return;
  td.says = mark;
  td.replaceChildren();
  for (const p of parts) {
    if (typeof p === "string") td.append(p);
    else if (p.badge) make("span", td, p.badge, "badge " + p.badge);
    else if (p.small) make("small", td, p.small);
    else if (p.code) { make("code", td, p.code); td.append(" "); }
  }
}

const rates = new Map();
let before = 0, now = 0;
// What a counter grew by each second since the last reading; null at its first.
function rate(key, n) {
  const last = rates.get(key);
  rates.set(key, { n, at: now });
  return last && last.at === before && now > before ? Math.max(0, (n - last.n) * 1000 / (now - before)) : null;
}

function inForce(b) {
  const wanted = b.in_force ? b.in_force.state : "leaving";
  if (wanted === "down" || wanted === "leaving") return wanted;
  return b.observed.health === "up" ? wanted : b.observed.health;
}
const RANK = { down: 0, differs: 1, leaving: 2, draining: 3, up: 4 };
const overridden = o => o.what + ", by " + o.who + ", " + time(o.since) + " ago" + (o.left !== null ? ", for " + time(o.left) + " more" : "") + (o.why ? ": " + o.why : "");
function seen(b) {
  const o = b.observed, c = o.check;
  return [
    { badge: o.health },
    o.why && { small: o.why + (o.since !== null ? ", for " + time(o.since) : "") },
    c && !(o.why || "").startsWith("check ") && { small: "check " + c.kind + ": " + c.state + " for " + time(c.since) + (c.took !== null ? ", " + time(c.took) : "") + (c.why ? "; " + c.why : "") },
    o.agent && { small: "agent: " + (o.agent.failed || o.agent.says) + ", for " + time(o.agent.since) },
    o.keys && o.keys.takes_own === false && { small: "does not take its own tickets" },
    o.keys && o.keys.failed && { small: "keys: " + o.keys.failed },
  ];
}
const of = (used, most) => number(used) + (most === null ? "" : " of " + number(most));

const cards = {
  connections: card("Connections/s", "conn/s"), flows: card("Flows", "flows"), resumed: card("Resumed", "resumed"),
  frames: card("Frames/s"), drops: card("Drops/s", "reason"), waiting: card("Waiting", "waiting"),
};
const list = {};
list.services = table("Services", [
  { title: "Service", of: s => [s.name, ...s.listen.map(at => ({ small: at }))], sort: s => s.name },
  { title: "Backends up", of: s => s.observed.up + " of " + s.backends.length, sort: s => s.observed.up, number: true },
  { title: "Flows", of: s => number(s.observed.flows), sort: s => s.observed.flows, number: true },
  { title: "Pools", word: "none", of: s => s.pools.join(", "), wrap: true },
  { title: "Balance", of: s => s.balance },
  { title: "Affinity", of: s => s.affinity ? "yes" : "no" },
  { title: "Overrides", word: "override", of: s => s.overrides.map(o => ({ small: overridden(o) })), sort: s => -s.overrides.length, wrap: true },
], { key: s => s.name, text: s => [s.name, ...s.listen, ...s.pools].join(" "), always: true });
list.backends = table("Backends", [
  { title: "Backend", of: b => [b.name, { small: b.address }], sort: b => b.name },
  { title: "In force", of: b => [{ badge: inForce(b) }], sort: b => RANK[inForce(b)] },
  { title: "Wanted", of: b => b.wanted ? b.wanted.state : "–" },
  { title: "Override", of: b => b.overrides.length ? b.overrides.map(o => ({ small: overridden(o) })) : "–", sort: b => -b.overrides.length, wrap: true },
  { title: "Observed", of: seen, sort: b => RANK[b.observed.health], wrap: true },
  { title: "Flows", of: b => number(b.observed.flows), sort: b => b.observed.flows, number: true },
  { title: "Conn/s", of: b => number(b.rate), sort: b => b.rate || 0, number: true },
  { title: "Resumed", of: b => percent(b.observed.resumed, b.observed.resumed + b.observed.new_sessions), sort: b => b.observed.resumed / Math.max(1, b.observed.resumed + b.observed.new_sessions), number: true },
  { title: "Slots", tight: true, of: b => b.observed.slots ? [{ small: "connections " + of(b.observed.slots.connections, b.observed.slots.max_connections) }, { small: "handshakes " + of(b.observed.slots.handshakes, b.observed.slots.max_handshakes) }] : "–", sort: b => b.observed.slots ? b.observed.slots.connections : -1 },
  { title: "Pools", tight: true, of: b => (b.in_force ? b.in_force.weights : []).map(w => ({ small: w.pool + " × " + w.weight })) },
], { key: b => b.name + " " + b.address, text: b => b.name + " " + b.address + " " + inForce(b) + " " + (b.in_force ? b.in_force.weights.map(w => w.pool).join(" ") : ""), always: true });
list.sessions = table("Resumption by kind and backend", [
  { title: "Backend", of: o => o.backend },
  { title: "Kind", of: o => o.kind },
  ...["Offered", "Promised", "Accepted", "Refused", "Broken", "Unknown"].map(t => ({ title: t, of: o => number(o[t.toLowerCase()]), sort: o => o[t.toLowerCase()], number: true })),
  { title: "Resumed", of: o => percent(o.accepted, o.accepted + o.refused), sort: o => o.accepted / Math.max(1, o.accepted + o.refused), number: true },
], { key: o => o.backend + " " + o.kind, text: o => o.backend + " " + o.kind });
list.keys = table("Ticket keys", [
  { title: "Backend", of: k => k.owners.join(", ") },
  { title: "Key name", word: "ticket keys", of: k => [{ code: k.name }], sort: k => k.name },
  { title: "Shared", word: "shared", of: k => k.owners.length > 1 ? "yes" : "no" },
  { title: "Known for", word: "known for", of: k => time(k.age), sort: k => k.age, number: true },
], { key: k => k.name, text: k => k.owners.join(" ") + " " + k.name });
list.queues = table("Queues", [
  { title: "Class", of: q => [q.class, { small: q.service + " · " + q.pool + " · " + q.family }], sort: q => q.class },
  ...["Waiting", "Admitted", "Spilled", "Abandoned", "Timed out", "Refused"].map(t => ({ title: t, of: q => number(q[t.toLowerCase().replace(" ", "_")]), sort: q => q[t.toLowerCase().replace(" ", "_")], number: true })),
], { key: q => [q.service, q.pool, q.family, q.class].join("\n"), text: q => [q.class, q.service, q.pool].join(" ") });
list.drops = table("Drops", [
  { title: "Reason", of: d => d.reason },
  { title: "Frames", word: "none", of: d => number(d.frames), sort: d => d.frames, number: true },
  { title: "Frames/s", word: "none", of: d => number(d.rate), sort: d => d.rate || 0, number: true },
  { title: "Answered", of: d => number(d.answered), sort: d => d.answered, number: true },
], { key: d => d.reason, text: d => d.reason, by: 1, down: true });
list.workers = table("Workers", [
  { title: "Worker", of: w => String(w.worker), sort: w => w.worker },
  { title: "State", word: "none", of: w => [{ badge: w.running ? "up" : "down" }] },
  { title: "Flows", of: w => number(w.flows), sort: w => w.flows, number: true },
  { title: "Frames/s", word: "none", of: w => number(w.rate), sort: w => w.rate || 0, number: true },
  { title: "Busy", of: w => percent(w.busy_turns, w.busy_turns + w.idle_turns), sort: w => w.busy_turns / Math.max(1, w.busy_turns + w.idle_turns), number: true },
  { title: "Longest turn", of: w => time(w.pauses.turn_longest), sort: w => w.pauses.turn_longest, number: true },
], { key: w => String(w.worker), text: () => "worker" });

list.events = table("Last events", [
  { title: "Time", word: "none", of: e => new Date(e.time * 1000).toLocaleTimeString([], { hour12: false }), sort: e => e.number },
  { title: "Level", word: "none", of: e => e.level === "warning" ? [{ badge: "warning" }] : e.level },
  { title: "Kind", word: "none", of: e => e.kind },
  { title: "What", word: "none", of: e => e.text },
], { key: e => String(e.number), text: e => e.kind + " " + e.level + " " + e.text, down: true });

let last = null;
function draw(s) {
  const sum = (all, f) => all.reduce((n, x) => n + f(x), 0), o = s.overview;
  put(byId("about"), "version " + o.version + " · up for " + time(o.uptime) + " · " + (o.backends - o.backends_down) + " of " + o.backends + " backends up");
  document.title = (o.backends_down ? "(" + o.backends_down + " down) " : "") + "dispatcher";
  const connections = rate("connections", o.connections), frames = rate("frames", sum(s.workers, w => w.frames_in)), drops = rate("drops", o.dropped);
  cards.connections(connections, number(connections));
  cards.flows(o.flows, number(o.flows));
  const resumed = rate("resumed", o.resumed), offered = rate("offered", o.offered);
  cards.resumed(offered > 0 ? 100 * resumed / offered : null, percent(o.resumed, o.offered));
  cards.frames(frames, number(frames));
  cards.drops(drops, number(drops));
  const waiting = sum(s.queues, q => q.waiting);
  cards.waiting(waiting, number(waiting));
  const notes = byId("notes").querySelector("ul");
  byId("notes").hidden = s.sessions.notes.length === 0;
  if (notes.textContent !== s.sessions.notes.join("")) { notes.replaceChildren(); for (const n of s.sessions.notes) make("li", notes, n); }
  for (const b of s.backends) b.rate = rate("b " + b.name + " " + b.address, b.observed.connections);
  for (const d of s.drops) d.rate = rate("d " + d.reason, d.frames);
  for (const w of s.workers) w.rate = rate("w " + w.worker, w.frames_in);
  const keys = new Map();
  for (const b of s.backends) {
    const told = b.observed.keys;
    if (told) told.names.forEach((name, i) => {
      const key = keys.get(name) || { name, owners: [], age: 0 };
      key.owners.push(b.name);
      key.age = Math.max(key.age, told.ages[i]);
      keys.set(name, key);
    });
  }
  list.services(s.services);
  list.backends(s.backends);
  list.sessions(s.sessions.offered);
  list.keys([...keys.values()]);
  list.queues(s.queues);
  list.drops(s.drops.filter(d => d.frames + d.answered > 0));
  list.workers(s.workers);
  list.events(s.events);
}
let paused = false, asking = false, answered = performance.now();
async function ask() {
  if (paused || asking) return;
  asking = true;
  try {
    const answer = await fetch("status.json", { cache: "no-store", signal: AbortSignal.timeout(15000) });
    if (!answer.ok) throw new Error("status " + answer.status);
    const told = await answer.json();
    if (!paused) {
      before = now;
      now = answered = performance.now();
      last = told;
      draw(told);
      put(byId("live"), "live");
    }
  } catch (e) {
    put(byId("live"), last ? "no answer: what is shown is old" : "no answer");
  } finally { asking = false; }
}
byId("pause").addEventListener("click", e => {
  paused = !paused;
  e.target.setAttribute("aria-pressed", String(paused));
  put(byId("live"), paused ? "paused" : "live");
  ask();
});
byId("filter").addEventListener("input", () => tables.forEach(draw => draw()));
setInterval(ask, EVERY);
ask();
