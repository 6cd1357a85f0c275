"use strict";
// Everything is drawn from the JSON in #data; nothing is asked of the network.
const D = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const PARTS = ["compute", "up", "down", "backhaul", "peer"];
const WORDS = {compute: "computing", up: "sending", down: "receiving", backhaul: "backhaul", peer: "to a peer", radio: "radio", idle: "neither"};
const COSTS = [["seconds", "time"], ["bytes", "traffic, up + down"], ["joules", "energy of the devices"], ["rounds", "rounds"]];
const DASHES = ["", "7 3", "2 2"];
const MOST = 100; // rows of a picture

function make(name, attributes = {}, ...children) {
  const isSvg = ["svg", "g", "rect", "line", "path", "circle", "text", "polyline", "polygon", "title", "defs", "pattern"].includes(name);
  const node = isSvg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== undefined) node.setAttribute(key, value);
  node.append(...children.filter(child => child !== null));
  return node;
}
function fill(node, ...children) { node.replaceChildren(...children); return node; }
const digits = (value, n = 3) => value === 0 ? "0" : Math.abs(value) >= 10 ** n ? String(Math.round(value)) : String(Number(value.toPrecision(n)));
const UNITS = {seconds: [[1e-3, "ms"], [1, "s"], [60, "min"], [3600, "h"], [86400, "d"]], bytes: [[1, "B"], [1e3, "kB"], [1e6, "MB"], [1e9, "GB"], [1e12, "TB"]],
  joules: [[1e-3, "mJ"], [1, "J"], [1e3, "kJ"], [1e6, "MJ"]], bps: [[1, "bit/s"], [1e3, "kbit/s"], [1e6, "Mbit/s"], [1e9, "Gbit/s"]]};
function unit(cost, value) {
  let chosen = [1, ""];
  for (const scale of UNITS[cost] || []) if (chosen[1] === "" || Math.abs(value) >= (cost === "seconds" && scale[0] > 1 ? 2 : 1) * scale[0]) chosen = scale;
  return value === 0 && UNITS[cost] ? UNITS[cost].find(scale => scale[0] === 1) : chosen;
}
function human(cost, value) {
  if (value === null || value === undefined) return "-";
  const [size, name] = unit(cost, value);
  return (digits(value / size) + " " + name).trim();
}
const isRate = name => (D.metrics.find(metric => metric.name === name) || {}).is_rate ?? /accuracy/.test(name);
const metricText = (name, value) => value === null || value === undefined ? "-" : isRate(name) ? digits(100 * value) + " %" : digits(value);
const color = i => `var(--c${i % 7})`;
const dash = i => DASHES[Math.floor(i / 7) % DASHES.length];

function ticks(low, high, n) {
  const raw = (high - low) / n || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map(k => k * power).find(k => k >= raw * 0.999);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high * (1 + 1e-9) + 1e-12; k++) found.push(k * step);
  return found;
}
function tip(text, x, y) {
  const box = $("tip");
  box.hidden = !text;
  if (!text) return;
  box.textContent = text;
  box.style.left = Math.max(4, Math.min(x + 14, innerWidth - box.offsetWidth - 6)) + "px";
  box.style.top = (y + box.offsetHeight + 26 > innerHeight ? y - box.offsetHeight - 12 : y + 16) + "px";
}
function hint(node, text) {
  node.addEventListener("pointermove", event => tip(text(), event.clientX, event.clientY));
  node.addEventListener("pointerleave", () => tip(""));
}
/* Arrow keys walk through the rows of a picture; what they are at is read out below it. */
function walk(picture, rows, say, readout) {
  let at = -1;
  picture.setAttribute("tabindex", "0");
  const show = () => {
    rows.forEach((row, i) => row.classList.toggle("at", i === at));
    rows.forEach((row, i) => row.setAttribute("opacity", at < 0 || i === at ? 1 : 0.45));
    readout.textContent = at < 0 ? "" : say(at);
  };
  picture.addEventListener("keydown", event => {
    const move = {ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1}[event.key];
    if (move) at = Math.max(0, Math.min(rows.length - 1, at + move));
    else if (event.key === "Home") at = 0;
    else if (event.key === "End") at = rows.length - 1;
    else if (event.key === "Escape") at = -1;
    else return;
    event.preventDefault();
    show();
  });
  picture.addEventListener("blur", () => { at = -1; show(); });
}
const readout = () => make("p", {class: "readout", "aria-live": "polite"});
const note = text => make("p", {class: "note"}, text);
const key = part => make("span", {}, make("i", {style: `background: var(--${part})`}), WORDS[part]);

// --- the result -----------------------------------------------------------------------------------------------------------------------

function drawTable() {
  const head = make("tr", {}, ...D.table.titles.map(title => make("th", {scope: "col"}, title.replace("\n", " "))));
  const rows = D.table.rows.map(row => make("tr", {}, ...row.map((cell, i) => {
    const small = cell.below.map(text => make("small", {}, text));
    return make(i ? "td" : "th", {class: cell.is_best ? "best" : null, scope: i ? null : "row"}, cell.text, ...small);
  })));
  fill($("table"), make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
  fill($("notes"), ...D.notes.map(text => make("li", {}, text)));
}

// --- curves ---------------------------------------------------------------------------------------------------------------------------

const hidden = new Set();
function curvesOf(label, cost, metric) {
  return D.runs.filter(run => run.label === label).map(run => {
    const pairs = run.points[cost].map((x, i) => [x, run.points[metric][i]]).filter(pair => pair[0] !== null && pair[1] !== null);
    return pairs;
  }).filter(pairs => pairs.length);
}
const valueAt = (pairs, x) => { // the last value known at a cost
  let low = 0, high = pairs.length;
  while (low < high) { const middle = (low + high) >> 1; if (pairs[middle][0] <= x) low = middle + 1; else high = middle; }
  return low ? pairs[low - 1][1] : null;
};
function summarize(curves) {
  if (curves.length === 1) return {mean: curves[0], band: []};
  const from = Math.max(...curves.map(pairs => pairs[0][0])), to = Math.max(...curves.map(pairs => pairs[pairs.length - 1][0]));
  const mean = [], band = [];
  for (let i = 0; i <= 240; i++) {
    const x = from + (to - from) * i / 240, values = curves.map(pairs => valueAt(pairs, x));
    mean.push([x, values.reduce((a, b) => a + b, 0) / values.length]);
    band.push([x, Math.min(...values), Math.max(...values)]);
  }
  return {mean, band};
}
function drawCharts() {
  const metric = $("metric").value;
  fill($("charts"), ...COSTS.map(([cost, title]) => chart(cost, title, metric)).filter(Boolean));
}
function chart(cost, title, metric) {
  const shown = D.methods.map((label, i) => ({label, i, curves: curvesOf(label, cost, metric)})).filter(m => m.curves.length && !hidden.has(m.label));
  const xs = shown.flatMap(m => m.curves.flatMap(pairs => pairs.map(pair => pair[0])));
  if (!xs.length || Math.max(...xs) <= 0) return null;
  const box = make("div", {class: "chart"}), said = readout();
  const W = Math.max(280, Math.min(560, $("charts").clientWidth - 16 || 400)), H = Math.round(W * 0.6), left = 48, right = 10, top = 12, bottom = 34;
  const target = D.target && D.target.metric === metric ? D.target.value : null;
  const ys = shown.flatMap(m => m.curves.flatMap(pairs => pairs.map(pair => pair[1]))).concat(target === null ? [] : [target]);
  const x1 = Math.max(...xs), pad = 0.05 * (Math.max(...ys) - Math.min(...ys) || 1), y0 = Math.min(...ys) - pad, y1 = Math.max(...ys) + pad;
  const X = x => left + (W - left - right) * x / x1, Y = y => top + (H - top - bottom) * (1 - (y - y0) / (y1 - y0));
  const [size, name] = unit(cost, x1);
  const reached = shown.map(m => `${m.label} ends at ${metricText(metric, summarize(m.curves).mean.at(-1)[1])}`).join("; ");
  const picture = make("svg", {viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${metric} against ${title}. ${reached}`, tabindex: "0"});
  for (const y of ticks(y0, y1, 5)) picture.append(make("line", {class: "axis", x1: left, x2: W - right, y1: Y(y), y2: Y(y)}), make("text", {x: left - 6, y: Y(y) + 4, "text-anchor": "end"}, metricText(metric, y)));
  for (const x of ticks(0, x1 / size, 5)) picture.append(make("text", {x: X(x * size), y: H - bottom + 16, "text-anchor": "middle"}, digits(x)));
  picture.append(make("text", {x: (left + W - right) / 2, y: H - 3, "text-anchor": "middle"}, title + (name ? ` (${name})` : "")));
  if (target !== null) picture.append(make("line", {class: "goal", x1: left, x2: W - right, y1: Y(target), y2: Y(target)}), make("text", {class: "strong halo", x: W - right, y: Y(target) + 14, "text-anchor": "end"}, `target ${metricText(metric, target)}`));
  const lines = shown.map(m => ({...m, ...summarize(m.curves)}));
  for (const m of lines) if (m.band.length) {
    const edge = [...m.band.map(b => `${X(b[0])},${Y(b[2])}`), ...m.band.toReversed().map(b => `${X(b[0])},${Y(b[1])}`)];
    picture.append(make("polygon", {points: edge.join(" "), fill: color(m.i), opacity: 0.16}));
  }
  for (const m of lines) {
    picture.append(make("polyline", {points: m.mean.map(p => `${X(p[0])},${Y(p[1])}`).join(" "), fill: "none", stroke: color(m.i), "stroke-width": 2.4, "stroke-dasharray": dash(m.i), "stroke-linejoin": "round"}));
    if (m.mean.length === 1) picture.append(make("circle", {cx: X(m.mean[0][0]), cy: Y(m.mean[0][1]), r: 4, fill: color(m.i)}));
  }
  const cross = make("line", {class: "cross", y1: top, y2: H - bottom, visibility: "hidden"}), dots = make("g");
  picture.append(cross, dots);
  let at = null;
  const show = (x, client) => {
    at = x === null ? null : Math.max(0, Math.min(x1, x));
    cross.setAttribute("visibility", at === null ? "hidden" : "visible");
    fill(dots);
    said.textContent = "";
    if (at === null) return tip("");
    cross.setAttribute("x1", X(at)); cross.setAttribute("x2", X(at));
    const known = lines.map(m => [m, valueAt(m.mean, at)]).filter(pair => pair[1] !== null);
    for (const [m, y] of known) dots.append(make("circle", {cx: X(at), cy: Y(y), r: 3.6, fill: color(m.i), stroke: "var(--panel)"}));
    const text = [`${human(cost, at)}${cost === "rounds" ? " rounds" : ""}`, ...known.map(([m, y]) => {
      const range = m.band.length ? m.curves.map(pairs => valueAt(pairs, at)) : [];
      return `${m.label} ${metricText(metric, y)}${range.length ? ` (${metricText(metric, Math.min(...range))} to ${metricText(metric, Math.max(...range))})` : ""}`;
    })];
    if (client) tip(text.join("\n"), ...client); else said.textContent = text.join(" · ");
  };
  const under = event => { const r = picture.getBoundingClientRect(); return ((event.clientX - r.left) * W / r.width - left) / (W - left - right) * x1; };
  picture.addEventListener("pointermove", event => show(under(event), [event.clientX, event.clientY]));
  picture.addEventListener("pointerdown", event => show(under(event), [event.clientX, event.clientY]));
  picture.addEventListener("pointerleave", () => show(null));
  picture.addEventListener("blur", () => show(null));
  picture.addEventListener("keydown", event => {
    const step = x1 / (event.shiftKey ? 10 : 50);
    const next = {ArrowRight: (at ?? 0) + step, ArrowLeft: (at ?? x1) - step, Home: 0, End: x1, Escape: null}[event.key];
    if (next === undefined) return;
    event.preventDefault();
    show(next);
  });
  box.append(make("h3", {}, title), picture, said);
  return box;
}
function drawLegend() {
  fill($("legend"), ...D.methods.map((label, i) => {
    const line = make("svg", {width: 26, height: 10, viewBox: "0 0 26 10", style: "width: 26px", "aria-hidden": "true"}, make("line", {x1: 0, x2: 26, y1: 5, y2: 5, stroke: color(i), "stroke-width": 3, "stroke-dasharray": dash(i)}));
    const button = make("button", {type: "button", "aria-pressed": "true"}, line, label);
    button.addEventListener("click", () => {
      hidden.has(label) ? hidden.delete(label) : hidden.add(label);
      button.setAttribute("aria-pressed", String(!hidden.has(label)));
      drawCharts();
    });
    return button;
  }));
}

// --- one run --------------------------------------------------------------------------------------------------------------------------

const run = () => D.runs[Number($("run").value)];
function drawRun() {
  const r = run();
  $("status").textContent = r.status + (r.error ? `: ${r.error}` : "");
  fill($("explanation"), ...(r.explanation.length ? r.explanation.map(text => make("p", {}, text)) : [note("No timeline was recorded for this run (--timeline N).")]));
  const rounds = r.timeline ? r.timeline.rounds : [];
  fill($("round"), ...rounds.map((round, i) => make("option", {value: i}, round.round)));
  drawRound(); drawBars(); drawMap(); drawShards(); drawSpread(); drawConfig();
}
function drawRound() {
  const t = run().timeline, at = Number($("round").value || 0), here = t && t.rounds[at];
  for (const id of ["round", "before", "next"]) $(id).disabled = !here;
  if (!here) return fill($("gantt"), note("No timeline was recorded for this run (--timeline N)."));
  $("before").disabled = at === 0; $("next").disabled = at === t.rounds.length - 1;
  const others = [...new Set(here.spans.map(s => s[0]))].filter(name => !here.devices.includes(name));
  const names = [...here.devices, ...others], rowH = 18, left = Math.min(150, 8 + 7.2 * Math.max(...names.map(n => Math.min(n.length, 20))));
  const W = Math.max(320, $("gantt").clientWidth || 700), H = names.length * rowH + 30, x1 = here.end_s - here.begin_s;
  const X = s => left + (W - left - 8) * Math.max(0, Math.min(1, (s - here.begin_s) / x1));
  const picture = make("svg", {viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `Round ${here.round}: ${human("seconds", x1)}; who computed, sent and waited. Arrow keys read out one device after the other.`});
  const [size, name] = unit("seconds", x1);
  for (const s of ticks(0, x1 / size, 6)) {
    const x = X(here.begin_s + s * size);
    picture.append(make("line", {class: "axis", x1: x, x2: x, y1: 0, y2: H - 26}), make("text", {x, y: H - 10, "text-anchor": "middle"}, `${digits(s)} ${name}`));
  }
  const sums = names.map(() => ({}));
  const rows = names.map((label, i) => {
    const row = make("g", {}, make("text", {class: "strong", x: left - 6, y: i * rowH + 13, "text-anchor": "end"}, label.length > 20 ? label.slice(0, 19) + "…" : label));
    row.append(make("line", {class: "axis", x1: left, x2: W - 8, y1: (i + 1) * rowH, y2: (i + 1) * rowH}));
    return row;
  });
  const index = new Map(names.map((label, i) => [label, i]));
  for (const [track, part, from, to, label, bytes, joules, critical, lost] of here.spans) {
    const i = index.get(track), isCall = part === "compute", seconds = Math.min(to, here.end_s) - Math.max(from, here.begin_s);
    sums[i][part] = (sums[i][part] || 0) + seconds;
    const bar = make("rect", {x: X(from), width: Math.max(1.2, X(to) - X(from)), y: i * rowH + (isCall ? 2 : 9), height: isCall ? 7 : 7, fill: `var(--${part})`, opacity: lost ? 0.45 : 1, stroke: critical ? "var(--ink)" : "none", "stroke-width": critical ? 1.4 : 0, rx: 1});
    const cost = isCall ? human("joules", joules) : `${human("bytes", bytes)}, ${human("joules", joules)}`;
    hint(bar, () => `${track}: ${WORDS[part]}${lost ? " (lost)" : ""}\n${label}\n${human("seconds", from - here.begin_s)} to ${human("seconds", to - here.begin_s)}: ${human("seconds", to - from)}\n${cost}${critical ? "\non the critical path" : ""}`);
    rows[i].append(bar);
  }
  picture.append(...rows);
  const said = readout();
  const words = i => PARTS.filter(part => sums[i][part]).map(part => `${WORDS[part]} ${human("seconds", sums[i][part])}`).join(", ");
  walk(picture, rows, i => `${names[i]}: ${words(i)} of ${human("seconds", x1)}`, said);
  const table = make("table", {}, make("thead", {}, make("tr", {}, make("th", {scope: "col"}, "device"), ...PARTS.map(part => make("th", {scope: "col"}, WORDS[part])))),
    make("tbody", {}, ...names.map((label, i) => make("tr", {}, make("th", {scope: "row"}, label), ...PARTS.map(part => make("td", {}, sums[i][part] ? human("seconds", sums[i][part]) : ""))))));
  const more = here.of > here.devices.length ? ` The ${here.devices.length} of ${here.of} devices that were done last.` : "";
  const cut = t.rounds.length < run().points.rounds.length ? ` The first ${t.rounds.length} rounds were kept.` : "";
  fill($("gantt"), note(`Top half of a row: computing; bottom half: messages. Outlined: the critical path. Empty: waiting. Devices that were done last stand first.${more}${cut}`), picture, said,
    make("details", {}, make("summary", {}, "As a table"), make("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "Seconds per device"}, table)));
}
function stacked(names, parts, cost, title) {
  const rowH = 15, left = Math.min(130, 8 + 7.2 * Math.max(...names.map(name => Math.min(name.length, 17)))), W = Math.max(300, Math.min(560, ($("bars").clientWidth || 600)));
  const H = names.length * rowH + 26, x1 = Math.max(...names.map(name => parts(name).reduce((a, p) => a + p[1], 0))) || 1, X = x => left + (W - left - 10) * x / x1, [size, unitName] = unit(cost, x1);
  const picture = make("svg", {viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${title}. Arrow keys read out one device after the other.`}), said = readout();
  for (const x of ticks(0, x1 / size, 4)) picture.append(make("line", {class: "axis", x1: X(x * size), x2: X(x * size), y1: 0, y2: H - 22}), make("text", {x: X(x * size), y: H - 8, "text-anchor": "middle"}, `${digits(x)} ${unitName}`));
  const say = name => parts(name).map(([part, value]) => `${part === "idle" && cost === "joules" ? "idle" : WORDS[part]} ${human(cost, value)}`).join(", ");
  const rows = names.map((name, i) => {
    const row = make("g", {}, make("text", {class: "strong", x: left - 6, y: i * rowH + 11, "text-anchor": "end"}, name.length > 17 ? name.slice(0, 16) + "…" : name));
    let x = 0;
    for (const [part, value] of parts(name)) { row.append(make("rect", {x: X(x), width: Math.max(0, X(x + value) - X(x)), y: i * rowH + 2, height: rowH - 5, fill: `var(--${part === "radio" ? "up" : part})`})); x += value; }
    hint(row, () => `${name}\n${say(name).replaceAll(", ", "\n")}`);
    return row;
  });
  picture.append(...rows);
  walk(picture, rows, i => `${names[i]}: ${say(names[i])}`, said);
  return make("div", {}, make("h3", {}, title), picture, said);
}
function drawBars() {
  const r = run(), t = r.timeline, all = Object.keys(r.devices).filter(name => r.devices[name].bytes_up || r.devices[name].bytes_down || Object.keys(r.devices[name].busy_s).length);
  if (!all.length) return fill($("bars"), note("This run has not ended, or nothing was spent."));
  const seconds = name => t && t.seconds[name] ? [["compute", t.seconds[name][0]], ["radio", t.seconds[name][1]], ["idle", t.seconds[name][2]]] : [];
  const joules = name => [["compute", r.devices[name].joules_compute], ["radio", r.devices[name].joules_radio], ["idle", r.devices[name].joules_idle]];
  const busy = name => seconds(name).slice(0, 2).reduce((a, p) => a + p[1], 0), order = $("order").value;
  const by = {name: null, seconds: busy, joules: name => r.devices[name].joules}[order];
  const clients = all.filter(name => r.devices[name].bytes_up || r.devices[name].bytes_down), chosen = clients.length ? clients : all;
  const names = (by ? chosen.toSorted((a, b) => by(b) - by(a)) : chosen).slice(0, MOST), rounds = t ? t.rounds.length : 0;
  const timed = names.filter(name => seconds(name).length);
  fill($("bars"), make("div", {class: "pair"},
    timed.length ? stacked(timed, seconds, "seconds", "Seconds in the recorded rounds") : note("No timeline was recorded for this run (--timeline N)."),
    stacked(names, joules, "joules", "Joules of the whole run")),
    note(`${names.length} of ${chosen.length} devices.`));
}

// --- the world ------------------------------------------------------------------------------------------------------------------------

function layout(world) {
  const places = world.places.slice(0, 400), byName = new Map(places.map(place => [place.name, place])), at = new Map();
  const children = new Map(places.map(place => [place.name, []]));
  for (const place of places) if (place.parent && children.has(place.parent)) children.get(place.parent).push(place.name);
  const known = places.filter(place => place.position_m);
  if (known.length * 2 >= places.length) {
    const xs = known.map(place => place.position_m[0]), ys = known.map(place => place.position_m[1]);
    const span = Math.max(Math.max(...xs) - Math.min(...xs), Math.max(...ys) - Math.min(...ys)) || 1;
    for (const place of known) at.set(place.name, [(place.position_m[0] - Math.min(...xs)) / span, (Math.max(...ys) - place.position_m[1]) / span]);
    const width = (Math.max(...xs) - Math.min(...xs)) / span;
    places.filter(place => !place.position_m).forEach((place, i) => at.set(place.name, [width / 2 + 0.12 * i, -0.16]));
  } else { // a wheel: leaves on the rim, every parent between its children
    const leaves = []; const visit = name => { const own = children.get(name); own.length ? own.forEach(visit) : leaves.push(name); };
    places.filter(place => !byName.has(place.parent)).forEach(place => visit(place.name));
    const angle = new Map(leaves.map((name, i) => [name, 2 * Math.PI * i / leaves.length - Math.PI / 2]));
    const turn = name => { const own = children.get(name); if (!angle.has(name)) angle.set(name, own.map(turn).reduce((a, b) => a + b, 0) / own.length); return angle.get(name); };
    const depth = name => { const parent = byName.get(name).parent; return parent && byName.has(parent) ? 1 + depth(parent) : 0; };
    const deepest = Math.max(1, ...places.map(place => depth(place.name)));
    for (const place of places) { const radius = 0.5 * depth(place.name) / deepest; at.set(place.name, [0.5 + radius * Math.cos(turn(place.name)), 0.5 + radius * Math.sin(turn(place.name))]); }
  }
  return {places, at, children};
}
function drawMap() {
  const world = run().world;
  if (!world) return fill($("map"), note("This record has no world.json; it was made by an earlier version."));
  const {places, at, children} = layout(world), points = places.map(place => at.get(place.name));
  const ups = new Map(), downs = new Map(), shown = new Set(places.map(place => place.name));
  for (const link of world.links) if (shown.has(link.from) && shown.has(link.to)) (link.direction === "down" ? downs : ups).set(link.direction === "down" ? link.to : link.from, link);
  const cells = places.map(place => [place.name, children.get(place.name).filter(name => ups.get(name) && ups.get(name).cell)]).filter(pair => pair[1].length)
    .map(([name, own]) => [name, 1.06 * Math.max(...own.map(child => Math.hypot(at.get(child)[0] - at.get(name)[0], at.get(child)[1] - at.get(name)[1])))]);
  const edges = [...points, ...cells.flatMap(([name, r]) => [[at.get(name)[0] - r, at.get(name)[1] - r], [at.get(name)[0] + r, at.get(name)[1] + r]])];
  const x0 = Math.min(...edges.map(p => p[0])), y0 = Math.min(...edges.map(p => p[1])), wide = Math.max(...edges.map(p => p[0])) - x0 || 1, high = Math.max(...edges.map(p => p[1])) - y0 || 1;
  const W = Math.max(300, Math.min(900, $("map").clientWidth || 700)), scale = Math.min((W - 60) / wide, 520 / high), H = high * scale + 50;
  const P = name => { const p = at.get(name); return [(W - wide * scale) / 2 + (p[0] - x0) * scale, 30 + (p[1] - y0) * scale]; };
  const picture = make("svg", {viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${world.of} places; arrow keys read out one after the other.`}), said = readout();
  for (const [name, r] of cells) picture.append(make("circle", {cx: P(name)[0], cy: P(name)[1], r: r * scale, fill: "none", stroke: "var(--soft)", "stroke-dasharray": "3 4"})); // what shares one base station's spectrum
  const rates = world.links.map(link => link.rate_bps).filter(rate => rate > 0 && Number.isFinite(rate)), low = Math.log10(Math.min(...rates)), wideness = Math.log10(Math.max(...rates)) - low || 1;
  for (const link of world.links) if (shown.has(link.from) && shown.has(link.to) && link.direction !== "down") {
    const [a, b] = [P(link.from), P(link.to)];
    picture.append(make("line", {x1: a[0], y1: a[1], x2: b[0], y2: b[1], stroke: `var(--${link.direction === "up" ? "up" : link.direction})`, "stroke-width": 1 + 3.5 * (Math.log10(link.rate_bps) - low) / wideness, opacity: 0.65}));
    if (link.direction === "up" && Math.hypot(a[0] - b[0], a[1] - b[1]) > 70 && places.length <= 24 && W > 500) picture.append(make("text", {x: (a[0] + b[0]) / 2, y: (a[1] + b[1]) / 2 - 3, "text-anchor": "middle", class: "halo"}, human("bps", link.rate_bps)));
  }
  const describe = place => {
    const up = ups.get(place.name), down = downs.get(place.name);
    return [`${place.name} (${place.role}, ${place.profile})`, `computes ${digits(place.speed_flops_per_s / 1e9)} GFLOP/s`, place.samples ? `${place.samples} samples` : null,
      up ? `to ${up.to}: ${human("bps", up.rate_bps)}${up.cell ? ` alone in cell ${up.cell}` : ""}` : null, down ? `from ${down.from}: ${human("bps", down.rate_bps)}` : null].filter(Boolean);
  };
  const nodes = places.map(place => {
    const [x, y] = P(place.name), isClient = !children.get(place.name).length;
    const node = make("g", {}, isClient ? make("circle", {cx: x, cy: y, r: places.length > 120 ? 3 : 6, fill: "var(--compute)", stroke: "var(--bg)"}) : make("rect", {x: x - 8, y: y - 8, width: 16, height: 16, rx: 3, fill: "var(--ink)", stroke: "var(--bg)"}));
    if (places.length <= 60 || !isClient) node.append(make("text", {class: "strong halo", x, y: y - 11, "text-anchor": "middle"}, place.name));
    hint(node, () => describe(place).join("\n"));
    return node;
  });
  picture.append(...nodes);
  walk(picture, nodes, i => describe(places[i]).join("; "), said);
  const less = world.of > places.length ? ` ${places.length} of ${world.of} places are drawn.` : "";
  fill($("map"), note(`Squares: servers. Circles: devices. Thicker links are faster; a dashed circle is a cell, whose links share its spectrum.${less}`), picture, said);
}
function drawShards() {
  const world = run().world, own = world ? world.places.filter(place => place.samples) : [];
  if (!own.length) return fill($("shards"), note("This record does not say who has which data."));
  const shown = own.slice(0, MOST), classes = own[0].counts ? own[0].counts.length : 0, rowH = shown.length > 50 ? 9 : 15, left = Math.min(120, 8 + 7.2 * Math.max(...shown.map(place => Math.min(place.name.length, 16))));
  const W = Math.max(320, Math.min(900, $("shards").clientWidth || 700)), barW = Math.min(140, W * 0.25), cellW = classes ? (W - left - barW - 60) / classes : 0, H = shown.length * rowH + 24;
  const most = Math.max(...shown.map(place => place.samples)), peak = Math.max(1, ...shown.flatMap(place => place.counts || [0]));
  const picture = make("svg", {viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `Samples per device${classes ? ` and class; ${classes} classes` : ""}. Arrow keys read out one device after the other.`}), said = readout();
  const rows = shown.map((place, i) => {
    const y = 18 + i * rowH, row = make("g");
    if (rowH > 9 || i % 2 === 0) row.append(make("text", {class: "strong", x: left - 6, y: y + rowH - 4, "text-anchor": "end"}, place.name));
    (place.counts || []).forEach((count, c) => {
      const cell = make("rect", {x: left + c * cellW, y, width: Math.max(0.5, cellW - 1), height: rowH - 1, fill: count ? `rgba(var(--heat), ${0.12 + 0.88 * count / peak})` : "var(--panel)"});
      hint(cell, () => `${place.name}, class ${c}: ${count} samples`);
      row.append(cell);
    });
    row.append(make("rect", {x: left + classes * cellW + 8, y: y + 1, width: barW * place.samples / most, height: rowH - 3, fill: "var(--idle)"}), make("text", {x: left + classes * cellW + 12 + barW * place.samples / most, y: y + rowH - 4}, place.samples));
    return row;
  });
  if (classes) for (let c = 0; c < classes; c += Math.ceil(classes / 20)) picture.append(make("text", {x: left + (c + 0.5) * cellW, y: 12, "text-anchor": "middle"}, c));
  picture.append(...rows);
  walk(picture, rows, i => `${shown[i].name}: ${shown[i].samples} samples${shown[i].counts ? "; by class " + shown[i].counts.join(", ") : ""}`, said);
  fill($("shards"), note(`${shown.length} of ${own.length} devices.${classes ? " Columns are classes, darker is more; the bar is the number of training samples." : ""}`), make("div", {class: "scroll"}, picture), said);
}
function drawSpread() {
  const found = run().clients, metric = found[D.metric] ? D.metric : Object.keys(found)[0], own = metric && metric !== "error" ? Object.entries(found[metric]).filter(pair => pair[1] !== null) : [];
  if (!own.length) return fill($("spread"), note(found.error || "This record has no metrics per client; the run has not ended, or was made by an earlier version."));
  const isUp = !/loss|error|perplexity|mse|mae/.test(metric), sorted = own.toSorted((a, b) => isUp ? a[1] - b[1] : b[1] - a[1]), values = sorted.map(pair => pair[1]);
  const rank = 0.1 * (values.length - 1), below = Math.floor(rank), tenth = values[below] + (rank - below) * ((values[below + 1] ?? values[below]) - values[below]);
  const mean = values.reduce((a, b) => a + b, 0) / values.length, lines = [["mean", mean], ["tenth percentile", tenth], ["worst", values[0]]];
  const W = Math.max(320, Math.min(900, $("spread").clientWidth || 700)), H = 220, left = 48, y1 = Math.max(...values) * 1.05 || 1, y0 = Math.min(0, ...values), Y = y => 12 + (H - 34) * (1 - (y - y0) / (y1 - y0)), w = (W - left - 170) / values.length;
  const picture = make("svg", {viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${metric} of ${values.length} clients: ${lines.map(line => `${line[0]} ${metricText(metric, line[1])}`).join(", ")}. Arrow keys read out one after the other.`}), said = readout();
  for (const y of ticks(y0, y1, 5)) picture.append(make("line", {class: "axis", x1: left, x2: W - 170, y1: Y(y), y2: Y(y)}), make("text", {x: left - 6, y: Y(y) + 4, "text-anchor": "end"}, metricText(metric, y)));
  const bars = sorted.map(([name, value], i) => { const bar = make("rect", {x: left + i * w, y: Y(value), width: Math.max(0.7, w - 1), height: Y(y0) - Y(value), fill: "var(--compute)"}); hint(bar, () => `${name}: ${metricText(metric, value)}`); return bar; });
  picture.append(...bars);
  let last = -99;
  for (const [label, value] of lines.toSorted((a, b) => b[1] - a[1])) { const y = last = Math.max(Y(value) + 4, last + 15); picture.append(make("line", {class: "goal", x1: left, x2: W - 170, y1: Y(value), y2: Y(value)}), make("text", {class: "strong", x: W - 164, y}, `${label} ${metricText(metric, value)}`)); }
  picture.append(make("text", {x: (left + W - 170) / 2, y: H - 4, "text-anchor": "middle"}, "clients, worst first"));
  walk(picture, bars, i => `${sorted[i][0]}: ${metricText(metric, sorted[i][1])}`, said);
  fill($("spread"), note(`${metric}: the final model on test rows with each client's own label mix.`), picture, said);
}
function drawConfig() {
  const h = run().header, groups = {Method: {name: h.label ?? h.method, ...h.fields}, Scenario: {name: (h.scenario || {}).name, ...(h.scenario || {}).fields}, "How it ran": {seed: h.seed, engine: h.engine, executor: h.executor, clock: h.clock, budget: h.budget, ...h.options},
    Task: h.task, Network: h.network, Versions: {...h.versions, "code revision": (h.code || {}).revision, "with changes": (h.code || {}).dirty, digest: run().digest}};
  const flat = (value, path = "") => value !== null && typeof value === "object" && !Array.isArray(value) ? Object.entries(value).flatMap(([name, inner]) => flat(inner, path ? `${path}.${name}` : name)) : [[path, Array.isArray(value) ? JSON.stringify(value) : String(value)]];
  fill($("config"), ...Object.entries(groups).map(([title, values], i) => make("details", {class: "config", open: i < 3 || title === "Versions" ? "" : null}, make("summary", {}, title),
    make("table", {}, make("tbody", {}, ...flat(values || {}).map(([name, value]) => make("tr", {}, make("td", {}, name.replace(/\.fields\./g, ".")), make("td", {}, value))))))));
}

// --- the page -------------------------------------------------------------------------------------------------------------------------

function begin() {
  document.title = `airloom: ${D.title}`;
  $("title").textContent = D.methods.length > 1 ? `${D.methods.length} methods compared` : D.methods[0];
  $("subtitle").textContent = D.title;
  $("clock").textContent = D.clock || "simulated";
  fill($("sections"), ...[...document.querySelectorAll("main section")].map(section => make("li", {}, make("a", {href: `#${section.id}`}, section.querySelector("h2").textContent))));
  $("result").querySelector("h2").textContent = D.target ? "Cost to the target" : "Cost of the runs";
  fill($("metric"), ...D.metrics.map(metric => make("option", {value: metric.name}, metric.name.replaceAll("_", " "))));
  fill($("run"), ...D.runs.map((r, i) => make("option", {value: i}, `${r.label}, seed ${r.seed}`)));
  fill($("keys"), ...PARTS.slice(0, 4).map(key));
  fill($("devicekeys"), key("compute"), make("span", {}, make("i", {style: "background: var(--up)"}), "radio"), make("span", {}, make("i", {style: "background: var(--idle)"}), "idle"));
  const themes = ["auto", "light", "dark"];
  $("theme").addEventListener("click", () => {
    const next = themes[(themes.indexOf(document.documentElement.dataset.theme || "auto") + 1) % 3];
    next === "auto" ? delete document.documentElement.dataset.theme : document.documentElement.dataset.theme = next;
    $("theme").querySelector("span").textContent = next;
    $("theme").setAttribute("aria-label", `Colors: ${next === "auto" ? "as the system" : next}`);
  });
  $("metric").addEventListener("change", drawCharts);
  $("run").addEventListener("change", drawRun);
  $("round").addEventListener("change", drawRound);
  $("order").addEventListener("change", drawBars);
  for (const [id, step] of [["before", -1], ["next", 1]]) $(id).addEventListener("click", () => { $("round").value = Number($("round").value) + step; drawRound(); });
  let width = innerWidth, timer;
  addEventListener("resize", () => { clearTimeout(timer); timer = setTimeout(() => { if (innerWidth !== width) { width = innerWidth; const at = $("round").value; drawCharts(); drawRun(); $("round").value = at; drawRound(); } }, 150); });
  drawTable(); drawLegend(); drawCharts(); drawRun();
  document.documentElement.dataset.ready = "yes";
}
begin();
