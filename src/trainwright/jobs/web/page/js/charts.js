// Curves of one metric, of one or several jobs: zoom by dragging, smoothing, a logarithmic axis, the point under the
// cursor in words.

import { get, query } from "./api.js";
import { amount, h, number } from "./dom.js";

const POINTS = 1200;
const HEIGHT = 200; // pixels of a curve with its axes
const ASIDE = /(runtime|per_second|total_flos|generation_step|_to_\d+_tokens)$/;

// Curves side by side, losses first; those of times and parts below, folded.
export class Board {
  constructor(jobs) {
    Object.assign(this, { jobs, charts: new Map() });
    const { state, element } = settings(() => this.charts.forEach((chart) => chart.draw()));
    this.state = state;
    this.first = h("div", { class: "charts" });
    this.more = h("div", { class: "charts" });
    this.fold = h("details", { hidden: true, ontoggle: () => this.fold.open && this.load() }, h("summary", {}, "More curves"), this.more);
    this.element = h("section", { "aria-label": "Curves" }, element, this.first, this.fold);
  }

  // `versions` say by name when a curve changed last: those that are as they were are not asked for again.
  async update(names, before, versions) {
    for (const name of [...names].sort((a, b) => rank(a) - rank(b) || a.localeCompare(b))) {
      if (this.charts.has(name)) continue;
      const chart = new Chart(name, this.jobs, this.state);
      this.charts.set(name, chart);
      const aside = ASIDE.test(name);
      (aside ? this.more : this.first).append(chart.element);
      if (aside) this.fold.hidden = false;
    }
    this.charts.forEach((chart, name) => Object.assign(chart, { before: before[name] ?? [], version: JSON.stringify(versions[name]) }));
    await this.load();
  }

  async load() {
    const seen = [...this.charts.values()].filter((chart) => this.fold.open || !ASIDE.test(chart.metric));
    await Promise.all(seen.filter((chart) => chart.loaded !== chart.version).map((chart) => chart.load()));
  }

  close() {
    this.charts.forEach((chart) => chart.close());
  }
}

function rank(name) {
  const place = ["train/loss", "loss", "eval/loss"].indexOf(name);
  if (place >= 0) return place;
  return name.includes("rate") && name.startsWith("eval/") ? 3 : name.startsWith("eval/") ? 4 : 5;
}

export function colour(place) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--c${place % 6}`).trim();
}

function settings(redraw) {
  const state = { smooth: 0, log: false };
  const element = h("div", { class: "row" },
    h("label", {}, "Smoothing", h("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: 0,
      oninput: (event) => { state.smooth = Number(event.target.value); redraw(); } })),
    h("label", {}, h("input", { type: "checkbox", onchange: (event) => { state.log = event.target.checked; redraw(); } }), "Logarithmic"),
    h("span", { class: "quiet" }, "Drag over a curve to zoom, double-click to see all of it; the arrow keys move the cursor."));
  return { state, element };
}

class Chart {
  constructor(metric, jobs, state) {
    Object.assign(this, { metric, jobs, state, curves: [], before: [], range: null, plot: null, version: null, loaded: null });
    this.holder = h("div", { class: "plot", tabindex: 0, role: "img", "aria-label": `Curve of ${metric}`, onkeydown: (event) => this.key(event) });
    this.point = h("div", { class: "point", "aria-live": "polite" });
    this.element = h("div", { class: "card chart" }, h("h3", {}, metric), this.holder, this.point);
    this.observer = new ResizeObserver(() => this.plot?.setSize(this.size()));
    this.observer.observe(this.holder);
  }

  size() {
    return { width: Math.max(this.holder.clientWidth, 200), height: HEIGHT };
  }

  async load() {
    const { version } = this;
    const part = this.range ? `&from=${Math.floor(this.range[0])}&to=${Math.ceil(this.range[1])}` : "";
    // the jobs' curves, and of a job alone what attempts before told that the newest has superseded
    const wanted = [...this.jobs.map((job) => [job, "", ""]), ...this.before.map((attempt) => [this.jobs[0], `attempt ${attempt} `, `&attempt=${attempt}`])];
    const found = await Promise.all(wanted.map(([job, , of]) => get(`jobs/${encodeURIComponent(job.id)}/metrics?${query("name", [this.metric])}&points=${POINTS}${part}${of}`)));
    this.loaded = version;
    const text = JSON.stringify(found);
    if (text === this.text) return;
    this.text = text;
    this.curves = wanted.map(([job, attempt], place) => ({ job, attempt, points: found[place][this.metric] ?? [] }));
    this.draw();
  }

  data() {
    const steps = [...new Set(this.curves.flatMap(({ points }) => points.map(([step]) => step)))].sort((a, b) => a - b);
    const place = new Map(steps.map((step, index) => [step, index]));
    const rows = this.curves.map(({ points }) => {
      const values = new Array(steps.length).fill(undefined);
      for (const [step, value] of smoothed(points, this.state.smooth)) {
        values[place.get(step)] = this.state.log && !(value > 0) ? null : value;
      }
      return values;
    });
    return [steps, ...rows];
  }

  draw() {
    const log = this.state.log;
    this.plot?.destroy();
    if (!this.text) return;
    const style = getComputedStyle(document.documentElement);
    const quiet = style.getPropertyValue("--quiet").trim();
    const line = style.getPropertyValue("--line").trim();
    const axis = { stroke: quiet, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1, size: 4 }, gap: 3, values: (_, ticks) => ticks.map(brief) };
    const data = this.data();
    const few = data[0].length < 60;
    this.plot = new window.uPlot({
      ...this.size(), legend: { show: false }, cursor: { drag: { x: true, y: false } },
      scales: { x: { time: false, range: this.range ? () => this.range : undefined }, y: log ? { distr: 3 } : {} },
      axes: [{ ...axis, size: 26 }, { ...axis, size: 56 }], padding: [8, 12, 0, 0],
      series: [{}, ...this.curves.map(({ attempt }, place) => ({ spanGaps: true, points: { show: few, size: 5 },
        ...(attempt ? { stroke: quiet, width: 1, dash: [4, 4] } : { stroke: colour(place), width: 1.6 }) }))],
      hooks: { setCursor: [(plot) => this.tell(plot.cursor.idx)], setSelect: [(plot) => this.zoom(plot)] },
    }, data, this.holder);
    this.holder.ondblclick = () => { this.range = null; this.text = null; this.load(); };
  }

  zoom(plot) {
    if (plot.select.width < 4) return;
    this.range = [plot.posToVal(plot.select.left, "x"), plot.posToVal(plot.select.left + plot.select.width, "x")];
    this.text = null;
    this.load();
  }

  tell(index) {
    if (index === null || index === undefined) return;
    const steps = this.plot.data[0];
    const parts = this.curves.map(({ job, attempt }, place) => [place, attempt || (this.jobs.length > 1 ? `${job.name} ` : ""), attempt, this.plot.data[place + 1][index]]);
    this.point.replaceChildren(`step ${steps[index]} `, ...parts.filter(([, , , value]) => value !== undefined).map(([place, name, attempt, value]) =>
      h("span", {}, !attempt && h("span", { class: `swatch c${place % 6}` }), name, `${number(value)}  `)));
  }

  key(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || !this.plot?.data[0].length) return;
    event.preventDefault();
    const last = this.plot.data[0].length - 1;
    const index = Math.min(Math.max((this.plot.cursor.idx ?? (by > 0 ? -1 : last + 1)) + by, 0), last);
    this.plot.setCursor({ left: this.plot.valToPos(this.plot.data[0][index], "x"), top: 20 });
    this.tell(index);
  }

  close() {
    this.observer.disconnect();
    this.plot?.destroy();
  }
}

// The number at a tick, in a few letters.
function brief(tick) {
  return tick === null ? "" : amount(tick).textContent;
}

// An exponential mean that begins without a bias towards zero (Kingma and Ba 2015, section 3).
function smoothed(points, weight) {
  if (!weight) return points;
  let mean = 0;
  let sum = 0;
  return points.map(([step, value]) => {
    if (value === null) return [step, null];
    mean = weight * mean + (1 - weight) * value;
    sum = weight * sum + (1 - weight);
    return [step, mean / sum];
  });
}
