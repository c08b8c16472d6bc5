"use strict";
// Draws the section of a sweep. Text from a record only ever goes into textContent.
function drawSweep(sweep, card, cards) {
  const place = (id) => document.getElementById(id);
  for (const made of sweep.responses)
    card(place("responses"), element("h4", {}, made.name), "", (width) => response(made, sweep.metric, width));
  const draw = (id, make) => place(id) && cards.push(() => place(id).replaceChildren(make(place(id).clientWidth)));
  draw("importance", (width) => importance(sweep.importance, width));
  draw("parallel", (width) => parallel(sweep.parallel, sweep, width));
  sortable(place("points"));
}

const brief = (value) => d3.format(".3~g")(value);
const number = (value) => d3.format(Math.abs(value) >= 1e4 || (value && Math.abs(value) < 1e-3) ? "~e" : "~g")(value);

// The mean over each value with its interval, and every run as a dot.
function response(made, metric, width) {
  const ordinal = made.scale === "ordinal", few = made.places.length <= 8;
  const x = ordinal ? { type: "point", domain: made.places } : { type: made.scale, ticks: few ? made.places.map(Number) : 5, tickFormat: number };
  const known = made.levels.filter((d) => d.lo !== null && d.hi !== null);
  const title = (d) => `${d.label}: ${short(d.y)}${d.lo === null ? "" : ` (${short(d.lo)} to ${short(d.hi)})`}\n${d.runs} runs, ${d.seeds} seeds`;
  const [low, high] = d3.extent([...made.dots, ...known.map((d) => ({ y: d.lo })), ...known.map((d) => ({ y: d.hi })), ...made.levels], (d) => d.y);
  const flat = high - low < 1e-9 ? { domain: [low - 0.05, low + 0.05] } : {};
  return Plot.plot({
    ...frame(width), marginTop: 24,
    x: { label: null, inset: 18, ...x },
    y: { label: metric, grid: true, ticks: 4, tickFormat: short, nice: true, ...flat },
    marks: [
      Plot.dot(made.dots.filter((d) => d.done), { x: "x", y: "y", r: 2.6, fill: "var(--soft)", fillOpacity: 0.55, title: "name" }),
      Plot.dot(made.dots.filter((d) => !d.done), { x: "x", y: "y", r: 2.6, stroke: "var(--soft)", title: "name" }),
      Plot.lineY(made.levels, { x: "x", y: "y", stroke: "var(--c0)", strokeWidth: 1.8 }),
      Plot.ruleX(known, { x: "x", y1: "lo", y2: "hi", stroke: "var(--c0)", strokeWidth: 1.6 }),
      Plot.dot(made.levels, { x: "x", y: "y", r: 4, fill: "var(--c0)" }),
      Plot.tip(made.levels, Plot.pointerX({ x: "x", y: "y", title, stroke: "var(--line)" })),
    ],
  });
}

// A bar per share, with the mark of what noise alone would give.
function importance(shares, width) {
  const left = Math.min(280, width * 0.42);
  return Plot.plot({
    width, height: shares.length * 26 + 40, marginLeft: left, marginRight: 44, style: { background: "none" },
    x: { label: null, grid: true, domain: [0, 1], ticks: 5, tickFormat: "%" },
    y: { label: null, domain: shares.map((d) => d.name), tickSize: 0, tickFormat: (name) => (name.length > left / 6.5 ? `…${name.slice(-left / 6.5)}` : name) },
    marks: [
      Plot.barX(shares, { x: "share", y: "name", fill: (d) => (d.main ? "var(--c0)" : "var(--soft)"), fillOpacity: 0.8, insetTop: 4, insetBottom: 4 }),
      Plot.tickX(shares.filter((d) => d.noise !== null), { x: (d) => Math.min(1, d.noise), y: "name", stroke: "var(--c1)", strokeWidth: 2.5 }),
      Plot.text(shares, { x: "share", y: "name", text: (d) => d3.format(".0%")(d.share), textAnchor: "start", dx: 6, fill: "currentColor" }),
    ],
  });
}

// Every run as a line over the parameters' axes and the metric's, coloured by the metric.
function parallel(made, sweep, width) {
  const [low, high] = d3.extent(made.lines, (d) => d.y), share = (y) => (high > low ? (y - low) / (high - low) : 0.5);
  const paint = (y) => `color-mix(in oklab, var(--c1) ${Math.round(100 * share(y))}%, var(--c0))`;
  const ticks = d3.ticks(low, high, 4).map((y) => [share(y), short(y)]);
  const axes = [...made.axes, { name: sweep.metric, ticks }];
  const names = axes.map((axis, i) => i);
  const best = (a, b) => (sweep.maximize ? a.y - b.y : b.y - a.y); // drawn last
  const rows = [...made.lines].sort(best).flatMap((line, z) => [...line.at, share(line.y)].map((at, i) => ({ i, at, z, y: line.y, name: line.name })));
  const labels = axes.flatMap((axis, i) => axis.ticks.map(([at, text]) => ({ i, at, text })));
  place("ramp", low, high, paint);
  return Plot.plot({
    width: Math.max(width, axes.length * 120), height: 300, marginLeft: 70, marginRight: 70, marginTop: 34, marginBottom: 14, style: { background: "none" },
    x: { type: "point", domain: names, axis: null },
    y: { domain: [0, 1], axis: null },
    marks: [
      Plot.ruleX(names, { x: (i) => i, stroke: "var(--line)", strokeWidth: 1.5 }),
      Plot.line(rows, { x: "i", y: "at", z: "z", stroke: { value: (d) => paint(d.y), scale: null }, strokeOpacity: Math.max(0.35, Math.min(0.9, 40 / made.lines.length)), strokeWidth: 1.5, curve: "monotone-x" }),
      Plot.text(labels, { x: "i", y: "at", text: "text", textAnchor: "end", dx: -6, fill: "currentColor", stroke: "var(--paper)", strokeWidth: 3 }),
      Plot.text(axes, { x: (d, i) => i, frameAnchor: "top", dy: -24, text: (d) => d.name, fill: "currentColor", fontWeight: 600 }),
      Plot.tip(rows, Plot.pointer({ x: "i", y: "at", title: (d) => `${d.name.split(", ").join("\n")}\n${sweep.metric}: ${short(d.y)}`, stroke: "var(--line)" })),
    ],
  });
}

function place(id, low, high, paint) {
  const bar = element("i");
  bar.style.background = `linear-gradient(to right, ${paint(low)}, ${paint(high)})`;
  document.getElementById(id).replaceChildren(`${brief(low)} `, bar, ` ${brief(high)}`);
}

// A click on a head sorts by that column, another one the other way round.
function sortable(table) {
  const heads = [...table.tHead.querySelectorAll("button")];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") !== "descending", body = table.tBodies[0];
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.sort, text = (row) => row.cells[column].textContent;
    const order = (a, b) => key(a) - key(b) || text(a).localeCompare(text(b));
    body.append(...[...body.rows].sort((a, b) => (down ? order(b, a) : order(a, b))));
  }));
}
