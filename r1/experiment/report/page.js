"use strict";
// Draws the curves and the completions of the data block. Text from a record only ever goes into textContent.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const PAGE = 30;

// ---- curves ----

const picked = () => new Set([...document.querySelectorAll(".pick input")].filter((i) => !i.checked).map((i) => +i.value));

function curve(chart, width) {
  const hidden = picked(), weight = chart.smooth ? +$("smoothing").value : 0;
  const series = chart.series.filter((s) => !hidden.has(s.v));
  return curves(series, data.names, width, { share: chart.share, smooth: chart.smooth, weight });
}

function stack(held, width) {
  const terms = Object.keys(held.terms);
  const rows = terms.flatMap((term) => held.terms[term].x.map((x, i) => ({ x, y: held.terms[term].y[i], term })));
  const fill = (d) => color(terms.indexOf(d.term));
  const sum = d3.rollups(rows, (group) => d3.sum(group, (d) => d.y), (d) => d.x).map(([x, y]) => ({ x, y }));
  return Plot.plot({
    ...frame(width),
    x: { label: "step", ticks: 5, nice: false, inset: 4 },
    y: { label: null, grid: true, ticks: 4 },
    marks: [
      Plot.areaY(rows, Plot.stackY({ x: "x", y: "y", z: "term", order: terms, fill, fillOpacity: 0.75 })),
      Plot.ruleY([0], { stroke: "var(--soft)" }),
      Plot.tip(sum, Plot.pointerX({ x: "x", y: "y", title: (d) => [`step ${d.x}: ${d.y.toPrecision(3)}`,
        ...rows.filter((r) => r.x === d.x).map((r) => `${r.term} ${r.y}`)].join("\n"), stroke: "var(--line)" })),
    ],
  });
}

const cards = []; // every drawn card with what draws it again

function card(parent, title, note, draw) {
  const place = element("div"), made = element("div", { class: "chart" }, title, note, place);
  parent.append(made);
  cards.push(() => made.offsetParent && place.replaceChildren(draw(Math.max(220, place.clientWidth))));
}

const redraw = () => cards.forEach((draw) => draw());

function drawCurves() {
  const more = $("more").querySelector(".charts");
  for (const chart of data.charts) {
    const title = element("h4", {}, chart.name), note = element("p", {}, chart.meaning);
    card(chart.main ? $("main-charts") : more, title, note, (width) => curve(chart, width));
  }
  $("more").hidden = !more.childElementCount;
  $("stacks-title").hidden = !data.stacks.length;
  for (const held of data.stacks) {
    const note = element("p");
    Object.keys(held.terms).forEach((term, i) => note.append(element("i", { class: `key c${i % 10}` }), term));
    card($("stacks"), element("h4", {}, data.names[held.v]), note, (width) => stack(held, width));
  }
  $("smoothing").addEventListener("input", (event) => {
    event.target.nextElementSibling.textContent = (+event.target.value).toFixed(2);
    redraw();
  });
  document.querySelectorAll(".pick input").forEach((input) => input.addEventListener("change", redraw));
  $("more").addEventListener("toggle", redraw);
}

function drawAgain() {
  redraw();
  let width = document.querySelector("main").clientWidth; // a phone's address bar changes the height only
  new ResizeObserver(([entry]) => {
    if (entry.contentRect.width !== width) { width = entry.contentRect.width; requestAnimationFrame(redraw); }
  }).observe(document.querySelector("main"));
}

// ---- completions ----

const terms = [...new Set(data.samples.flatMap((s) => Object.keys(s.rewards || {})))];
let shown = PAGE;

function matches(sample) {
  const words = $("search").value.toLowerCase();
  const chosen = (id, value) => !$(id) || $(id).value === "" || $(id).value === String(value);
  return chosen("split", sample.split) && chosen("step", sample.step) && chosen("variant", sample.v) &&
    chosen("verdict", verdict(sample)) &&
    (!words || [sample.prompt, sample.completion, sample.answer].some((text) => String(text ?? "").toLowerCase().includes(words)));
}

// A training completion has no verdict of its own: its accuracy says it.
function verdict(sample) {
  const right = sample.correct ?? (sample.rewards || {}).accuracy;
  return right === undefined ? "" : +right > 0.5 ? "right" : "wrong";
}

// The completion with its thinking folded; open where the search found it inside.
function folded(text) {
  const parts = text.match(/^([^]*?)<think>([^]*?)(<\/think>[^]*|$)/);
  if (!parts) return [text];
  const [, before, thinking, after] = parts;
  const words = $("search").value.toLowerCase();
  const head = element("summary", {}, `thinking, ${thinking.length} characters`);
  const made = element("details", {}, head, thinking);
  made.open = Boolean(words) && thinking.toLowerCase().includes(words);
  return [before, made, after.replace(/^<\/think>\s*/, "")];
}

function row(sample) {
  const cell = (name, kind, ...content) => element("td", { "data-name": name, class: kind }, ...content.map((c) => c ?? ""));
  const numbers = (name, value) => cell(name, "num", value === undefined ? "" : String(Math.round(value * 1000) / 1000));
  const key = data.names.length > 1 ? [element("i", { class: `key c${sample.v % 10}`, title: data.names[sample.v] })] : [];
  const cut = sample.truncated ? [element("em", {}, "cut off at the length limit")] : [];
  return element("tr", {},
    cell("step", "num", ...key, String(sample.step)), cell("split", "", sample.split),
    cell("prompt", "prompt", String(sample.prompt)), cell("answer", "gold", sample.answer === undefined ? "" : String(sample.answer)),
    cell("completion", "text", ...folded(String(sample.completion)), ...cut), numbers("reward", sample.reward),
    ...terms.map((term) => numbers(term, (sample.rewards || {})[term])), numbers("advantage", sample.advantage),
    cell("", verdict(sample), verdict(sample)));
}

function showRows() {
  const found = data.samples.filter(matches);
  $("count").textContent = found.length;
  $("rows").tBodies[0].replaceChildren(...found.slice(0, shown).map(row));
  $("next").hidden = found.length <= shown;
}

function drawCompletions() {
  data.samples.sort((a, b) => b.step - a.step); // the newest first
  const asked = location.hash.match(/^#search=(.*)/); // a link can ask for a search
  if (asked) $("search").value = decodeURIComponent(asked[1]);
  const names = ["step", "split", "prompt", "answer", "completion", "reward", ...terms, "advantage", ""];
  $("rows").tHead.append(element("tr", {}, ...names.map((name) => element("th", {}, name))));
  const steps = [...new Set(data.samples.map((s) => s.step))].sort((a, b) => a - b);
  $("step").append(...steps.map((step) => element("option", { value: step }, `step ${step}`)));
  document.querySelectorAll(".filters > *").forEach((input) => input.addEventListener("input", () => { shown = PAGE; showRows(); }));
  $("next").addEventListener("click", () => { shown += PAGE; showRows(); });
  showRows();
}

if (data.sweep) drawSweep(data.sweep, card, cards);
if (data.ranking.length > 1) cards.push(() => $("ranking").replaceChildren(intervals(data.ranking, "final pass@1", $("ranking").clientWidth)));
if ($("curves")) drawCurves();
drawAgain();
if ($("completions")) drawCompletions();
