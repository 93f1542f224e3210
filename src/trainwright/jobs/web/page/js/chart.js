// The curve of one metric, of one or several jobs or groups of them: zoom by dragging, the point under the cursor in
// words, a picture and a table of it to keep.

import { get, query } from "./api.js";
import { aligned, gathered, nearest, placed, smoothed } from "./curves.js";
import { amount, h, number, span, swatch } from "./dom.js";
import { savePicture } from "./picture.js";

const POINTS = 1200;
const HEIGHT = 200; // pixels of a curve with its axes
const NEAR = 0.015; // of the width, within which a point is under the cursor

export function colour(place) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--c${place % 6}`).trim();
}

export class Chart {
  // `state` is the board's: how all of its curves are drawn.
  constructor(metric, jobs, state) {
    Object.assign(this, { metric, jobs, state, loadedCurves: [], drawn: [], before: [], range: null, plot: null, version: null, loaded: null });
    this.holder = h("div", { class: "plot", tabindex: 0, role: "img", "aria-label": `Curve of ${metric}`, onkeydown: (event) => this.key(event) });
    this.missing = h("p", { class: "quiet missing", hidden: true });
    this.point = h("div", { class: "point", "aria-live": "polite" });
    const csv = `api/csv?${query("name", [metric])}&${query("job", jobs.map((job) => job.id))}`;
    this.element = h("div", { class: "card chart" }, h("div", { class: "title" }, h("h3", {}, metric),
      h("button", { class: "small", title: "Keep a picture", "aria-label": `Picture of ${metric}`, onclick: () => savePicture(this) }, "PNG"),
      h("a", { class: "button small", title: "Keep all points", "aria-label": `Table of ${metric}`, href: csv, download: "" }, "CSV")), this.missing, this.holder, this.point);
    this.observer = new ResizeObserver(() => this.plot?.setSize(this.size()));
    this.observer.observe(this.holder);
  }

  size() {
    return { width: Math.max(this.holder.clientWidth, 200), height: HEIGHT };
  }

  // What is asked for: it is asked for anew where this, or the curve, has changed.
  get wanted() {
    return JSON.stringify([this.version, this.state.axis, this.range]);
  }

  async load() {
    this.loaded = this.wanted;
    const { axis, axes } = this.state;
    const by = axes[axis];
    const part = this.range ? `&from=${this.range[0]}&to=${this.range[1]}` : "";
    const more = `${axis === "time" ? "&time=1" : ""}${part}`;
    // the jobs' curves, and of a job alone what attempts before told that the newest has superseded
    const asked = [...this.jobs.map((job) => [job, "", ""]), ...this.before.map((attempt) => [this.jobs[0], `attempt ${attempt} `, `&attempt=${attempt}`])];
    const names = by && by !== "time" && by !== this.metric ? [this.metric, by] : [this.metric];
    const found = await Promise.all(asked.map(([job, , of]) => get(`jobs/${encodeURIComponent(job.id)}/metrics?${query("name", names)}&points=${POINTS}${more}${of}`))).catch((error) => {
      this.loaded = null; // to be asked for again
      throw error;
    });
    const text = JSON.stringify([axis, found]);
    if (text === this.text) return;
    this.text = text;
    this.loadedCurves = asked.map(([job, attempt], place) => {
      const all = placed(found[place][this.metric] ?? [], by === "time" || !by ? by : found[place][by] ?? []);
      return { job, attempt, place, points: all.map(([x, value, step]) => [x, finite(value), step]), odd: all.filter(([, value]) => finite(value) === null) };
    });
    this.draw();
  }

  // The curves as they are drawn: of jobs, or of each group of jobs the mean between the least and the greatest.
  curves() {
    const each = this.loadedCurves.map((one) => ({ ...one, name: one.attempt || one.job.name, points: this.fitting(smoothed(one.points, this.state.smooth)) }));
    const keys = this.state.groups[this.state.group];
    if (!keys) return each;
    const groups = new Map();
    for (const one of each) if (!one.attempt) groups.set(keys[one.place], [...(groups.get(keys[one.place]) ?? []), one.points]);
    return [...groups].flatMap(([key, curves], place) => {
      const { mean, least, greatest } = gathered(curves);
      const name = `${key} (${curves.length})`;
      const band = curves.length > 1 ? [{ place, name, points: least, edge: true }, { place, name, points: greatest, edge: true }] : [];
      return [{ place, name, points: mean }, ...band];
    });
  }

  // A logarithmic axis has no place for what is not above zero.
  fitting(points) {
    return this.state.log ? points.map(([x, value, step]) => [x, value > 0 ? value : null, step]) : points;
  }

  draw() {
    this.plot?.destroy();
    this.plot = null;
    if (!this.text) return;
    const style = getComputedStyle(document.documentElement);
    const quiet = style.getPropertyValue("--quiet").trim();
    const line = style.getPropertyValue("--line").trim();
    const axis = { stroke: quiet, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1, size: 4 }, gap: 3, values: (_, ticks) => ticks.map(brief) };
    const across = this.state.axis === "time" ? { values: (_, ticks) => ticks.map(span), space: 70, incrs: SECONDS } : {};
    this.drawn = this.curves();
    this.tellMissing();
    const data = aligned(this.drawn.map(({ points }) => points));
    const few = data[0].length < 60;
    this.plot = new window.uPlot({
      ...this.size(), legend: { show: false }, cursor: { drag: { x: true, y: false } },
      scales: { x: { time: false }, y: this.state.log ? { distr: 3 } : {} },
      axes: [{ ...axis, size: 26, ...across }, { ...axis, size: 56 }], padding: [8, 20, 0, 0],
      series: [{}, ...this.drawn.map((one) => ({ spanGaps: true, points: { show: few && !one.edge, size: 5 }, ...stroke(one, quiet) }))],
      bands: this.drawn.flatMap((one, at) => (one.edge && this.drawn[at + 1]?.edge && this.drawn[at + 1].place === one.place ? [{ series: [at + 2, at + 1], fill: `${colour(one.place)}2e` }] : [])),
      hooks: { draw: [(plot) => this.mark(plot)], setCursor: [(plot) => this.tell(plot.cursor.idx)], setSelect: [(plot) => this.zoom(plot)] },
    }, data, this.holder);
    this.holder.ondblclick = () => { this.range = null; this.load(); };
  }

  // A line goes on over what is no number: a cross below stands for nan, an arrow at the edge for an infinite value.
  mark(plot) {
    const { left, top, width, height } = plot.bbox;
    const size = 14 * (window.devicePixelRatio || 1);
    const { ctx } = plot;
    ctx.save();
    ctx.font = `bold ${size}px system-ui, sans-serif`;
    ctx.textAlign = "center";
    const several = this.loadedCurves.length > 1 && !this.state.groups[this.state.group];
    for (const { odd, place } of this.loadedCurves) {
      ctx.fillStyle = several ? colour(place) : getComputedStyle(document.documentElement).getPropertyValue("--bad").trim();
      for (const [x, value] of odd) {
        const at = plot.valToPos(x, "x", true);
        if (at >= left && at <= left + width) ctx.fillText({ inf: "↑", "-inf": "↓" }[value] ?? "×", at, value === "inf" ? top + size : top + height - 2);
      }
    }
    ctx.restore();
  }

  // And it is said.
  tellMissing() {
    const steps = this.loadedCurves.flatMap(({ odd }) => odd.map(([, , step]) => step));
    this.missing.hidden = !steps.length;
    this.missing.textContent = steps.length ? `no finite number at step ${number(steps.reduce((a, b) => Math.min(a, b)))}${steps.length > 1 ? " and others" : ""}` : "";
  }

  zoom(plot) {
    if (plot.select.width < 4) return;
    const from = plot.posToVal(plot.select.left, "x");
    const to = plot.posToVal(plot.select.left + plot.select.width, "x");
    const steps = this.loadedCurves.flatMap(({ points }) => points.filter(([x]) => from <= x && x <= to).map(([, , step]) => step));
    if (!steps.length) return;
    this.range = [Math.min(...steps), Math.max(...steps)];
    this.load();
  }

  tell(index) {
    const x = index === null || index === undefined ? undefined : this.plot.data[0][index];
    if (x === undefined) return this.point.replaceChildren();
    const { min, max } = this.plot.scales.x;
    const parts = this.drawn.filter((one) => !one.edge).map((one) => [one, nearest(one.points, x, NEAR * (max - min))]).filter(([, point]) => point);
    const several = this.drawn.filter((one) => !one.edge && !one.attempt).length > 1;
    for (const one of this.drawn) for (const [at, value] of one.odd ?? []) if (at === x) parts.push([one, [at, value]]);
    this.point.replaceChildren(`${this.said(x)} `, ...parts.map(([one, [, value]]) =>
      h("span", {}, !one.attempt && swatch(one.place), one.attempt || (several ? `${one.name} ` : ""), `${number(value)}  `)));
  }

  said(x) {
    return this.state.axis === "time" ? span(x) : `${{ tokens: "tokens", epochs: "epoch" }[this.state.axis] ?? "step"} ${number(x)}`;
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

const SECONDS = [1, 5, 10, 30, 60, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 604800];

function stroke(one, quiet) {
  if (one.edge) return { width: 0, stroke: "transparent" };
  if (one.attempt) return { stroke: quiet, width: 1, dash: [4, 4] };
  return { stroke: colour(one.place), width: 1.6, ...(one.place > 5 && { dash: [8, 3] }) }; // there are six colours
}

// A value as a line has it: what is none is nan, inf or -inf.
function finite(value) {
  return typeof value === "number" ? value : null;
}

// The number at a tick, in a few letters.
function brief(tick) {
  return tick === null ? "" : amount(tick).textContent;
}
