"use strict";
// What the pages draw with. Text from a record only ever goes into textContent.
const color = (v) => `var(--c${v % 10})`;

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Exponential moving average that starts unbiased, as TensorBoard's.
function smoothed(values, weight) {
  let sum = 0, norm = 0;
  return values.map((y) => (sum = weight * sum + (1 - weight) * y) / (norm = weight * norm + (1 - weight)));
}

function points(series, weight) {
  const y = smoothed(series.y, weight), lo = series.lo && smoothed(series.lo, weight), hi = series.hi && smoothed(series.hi, weight);
  return series.x.map((x, i) => ({ x, y: y[i], raw: series.y[i], lo: lo && lo[i], hi: hi && hi[i], v: series.v }));
}

const short = (y) => d3.format(Math.abs(y) >= 1e4 ? "~s" : "~g")(y);
const frame = (width) => ({ width, height: 190, marginLeft: 46, marginRight: 14, marginTop: 12, marginBottom: 34, style: { background: "none" } });

// The range of an axis for values that are all the same: rounding alone would fill it with a jagged line.
function flatDomain(values) {
  const [low, high] = d3.extent(values), size = Math.max(Math.abs(low), Math.abs(high));
  return high - low > 1e-9 * size ? {} : { domain: [low - (size / 10 || 1), high + (size / 10 || 1)] };
}

// Series over steps, each with its band and the intervals at its ends; names[v] is what series v is called.
function curves(series, names, width, { share = false, smooth = false, weight = 0 } = {}) {
  const all = series.flatMap((s) => points(s, weight));
  const bands = all.filter((d) => d.lo !== undefined);
  const whiskers = series.flatMap((s) => s.ci.map(([x, lo, hi]) => ({ x, lo, hi, v: s.v })));
  const drawn = [...all.flatMap((d) => [d.y, d.raw]), ...[...bands, ...whiskers].flatMap((d) => [d.lo, d.hi])];
  const stroke = (d) => color(d.v);
  const label = (d) => `${names.length > 1 ? names[d.v] + "\n" : ""}step ${d.x}: ${d.raw}`;
  return Plot.plot({
    ...frame(width),
    x: { label: "step", ticks: 5, nice: false, inset: 4 },
    y: { label: null, grid: true, ticks: 4, tickFormat: short, ...(share ? { domain: [0, 1] } : flatDomain(drawn)) },
    marks: [
      Plot.areaY(bands, { x: "x", y1: "lo", y2: "hi", z: "v", fill: stroke, fillOpacity: 0.16 }),
      weight ? Plot.lineY(all, { x: "x", y: "raw", z: "v", stroke, strokeOpacity: 0.28, strokeWidth: 1 }) : null,
      Plot.ruleX(whiskers, { x: "x", y1: "lo", y2: "hi", stroke, strokeWidth: 1.2 }),
      Plot.lineY(all, { x: "x", y: "y", z: "v", stroke, strokeWidth: 1.8 }),
      smooth ? null : Plot.dot(all, { x: "x", y: "y", r: 2.4, fill: stroke }),
      Plot.tip(all, Plot.pointer({ x: "x", y: "y", title: label, stroke: "var(--line)" })),
    ],
  });
}

// Shares, each with its name and its interval, one below the other.
function intervals(rows, label, width) {
  const left = Math.min(260, width * 0.4);
  return Plot.plot({
    width, height: rows.length * 22 + 44, marginLeft: left, marginRight: 14, style: { background: "none" },
    x: { label, grid: true, domain: [0, 1], ticks: 5 },
    y: { label: null, type: "point", domain: rows.map((d) => d.i), tickFormat: (i) => rows.find((d) => d.i === i).name.slice(0, left / 6.5), tickSize: 0 },
    marks: [
      Plot.ruleY(rows.filter((d) => d.low !== null), { y: "i", x1: "low", x2: "high", stroke: (d) => color(d.i), strokeWidth: 1.5 }),
      Plot.dot(rows, { y: "i", x: "value", r: 4, fill: (d) => color(d.i) }),
    ],
  });
}
