// What came of parameters: lines through parallel axes, and one parameter against a result, a line and a dot for each job.

import { colour } from "./chart.js";
import { amount, h, number } from "./dom.js";

const NAMESPACE = "http://www.w3.org/2000/svg";
const [HEIGHT, TOP, BOTTOM, SIDE] = [240, 38, 24, 62]; // pixels
const AXIS = 92; // pixels at least from one to the next
const OWN = 12; // jobs that have colours and dashes of their own, those of their curves
const NONE = [null, "nan", "inf", "-inf"]; // what has no place on an axis

export class Sweep {
  constructor() {
    this.metric = h("select", { "aria-label": "Result", onchange: () => this.draw() });
    this.parameter = h("select", { "aria-label": "Parameter", onchange: () => this.draw() });
    this.words = h("p", { class: "quiet", role: "status" });
    this.key = h("p", { class: "quiet", hidden: true }, "From the worst result ", h("span", { class: "ramp" }), " to the best.");
    this.lines = h("div");
    this.dots = h("div");
    this.element = h("section", { class: "card sweep", "aria-label": "Parameters and results", hidden: true },
      h("div", { class: "row" }, h("h2", {}, "Parameters and results"), h("label", {}, "Result", this.metric)),
      this.key, this.lines, h("div", { class: "row" }, h("label", {}, "Against", this.parameter)), this.dots, this.words);
  }

  // `found` is the answer of the comparison.
  update(found) {
    this.found = found;
    const varied = Object.keys(found.params).filter((name) => variants(found.params[name]) > 1 && !name.endsWith("_dir"));
    const metrics = Object.keys(found.metrics).filter((name) => found.metrics[name].filter((value) => !NONE.includes(value)).length > 1);
    this.element.hidden = found.jobs.length < 3 || !varied.length || !metrics.length;
    if (this.element.hidden) return;
    this.width = Math.max(this.element.clientWidth - 32, 280);
    this.varied = varied.slice(0, Math.max(Math.floor((this.width - 2 * SIDE) / AXIS), 1));
    options(this.metric, metrics, metrics.find((name) => /(^|\/)eval[/_](.*[/_])?loss$/.test(name)) ?? metrics.find((name) => /^eval/.test(name)) ?? metrics.find((name) => /loss$/.test(name)));
    options(this.parameter, varied, varied[0]);
    this.draw();
  }

  // A job's best value: of a loss or an error the least.
  best() {
    const { found } = this;
    const name = this.metric.value;
    const isLeast = /loss|error|perplexity|nll|seconds|runtime/.test(name);
    return { name: `${name} (${isLeast ? "least" : "greatest"})`, values: (isLeast ? found.least : found.greatest)[name] ?? [], isLeast };
  }

  draw() {
    const best = this.best();
    const columns = [...this.varied.map((name) => ({ name, values: this.found.params[name] })), best].map(scaled);
    const own = this.found.jobs.length <= OWN;
    this.key.hidden = own;
    const shade = own ? colour : shades(columns.at(-1), best.isLeast);
    this.lines.replaceChildren(this.parallel(columns, shade));
    const across = scaled({ name: this.parameter.value, values: this.found.params[this.parameter.value] });
    this.dots.replaceChildren(this.scatter(across, columns.at(-1), shade));
  }

  parallel(columns, shade) {
    const { width } = this;
    const place = (at) => SIDE + (at * (width - 2 * SIDE)) / Math.max(columns.length - 1, 1);
    const axes = columns.flatMap((column, at) => {
      const side = at === 0 ? "start" : at === columns.length - 1 ? "end" : "middle";
      const edge = at === 0 ? 0 : at === columns.length - 1 ? width : place(at);
      const label = text(edge, at % 2 ? 12 : 26, column.name.split(".").at(-1), side);
      const marks = at === 0 ? (word, y) => text(place(at) - 6, y, word, "end") : (word, y) => text(place(at) + 6, y, word, "start");
      return [label, ...column.marks.map(([y, word]) => marks(word, down(y) + 4))];
    });
    const lines = columns.map((_, at) => line(place(at), TOP, place(at), HEIGHT - BOTTOM));
    const paths = this.found.jobs.map((job, row) => {
      const points = columns.map((column, at) => [place(at), column.at(row)]).filter(([, y]) => y !== null).map(([x, y]) => `${x.toFixed(1)},${down(y).toFixed(1)}`);
      return this.linked(svg("polyline", { class: `line ${isDashed(this, row) ? "dashed" : ""}`, points: points.join(" "), stroke: shade(row) }), job, row);
    });
    return svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": "Parameters and a result of every job" }, ...lines, ...paths, ...axes);
  }

  scatter(across, result, shade) {
    const { width } = this;
    const wide = (x) => SIDE + 8 + x * (width - 2 * SIDE);
    const axes = [line(SIDE, HEIGHT - BOTTOM, width - SIDE + 16, HEIGHT - BOTTOM), line(SIDE, TOP, SIDE, HEIGHT - BOTTOM),
      ...across.marks.map(([x, word]) => text(wide(x), HEIGHT - 6, word, "middle")), ...result.marks.map(([y, word]) => text(SIDE - 6, down(y) + 4, word, "end")),
      text(width / 2, 14, `${result.name} against ${across.name}`, "middle")];
    const dots = this.found.jobs.flatMap((job, row) => (across.at(row) === null || result.at(row) === null ? []
      : [this.linked(svg("circle", { cx: wide(across.at(row)), cy: down(result.at(row)), r: 6, class: isDashed(this, row) ? "dashed" : "", fill: shade(row), stroke: shade(row) }), job, row)]));
    return svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": `${result.name} against ${across.name}` }, ...axes, ...dots);
  }

  linked(element, job, row) {
    const told = () => { this.words.textContent = `${job.name} ${job.id}: ${this.varied.map((name) => `${name} ${number(this.found.params[name][row])}`).join(", ")}; ${this.best().name} ${number(this.best().values[row])}`; };
    element.addEventListener("pointerenter", told);
    element.addEventListener("click", () => { location.hash = `#/job/${encodeURIComponent(job.id)}`; });
    element.append(svg("title", {}, `${job.name} ${job.id}`));
    return element;
  }
}

// How many values there are; what a job has none of is none.
export function variants(values) {
  return new Set(values.filter((value) => value !== null).map((value) => JSON.stringify(value))).size;
}

function options(select, names, first) {
  const before = select.value;
  select.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
  select.value = names.includes(before) ? before : first ?? names[0];
}

// A column of values with places from 0 to 1: numbers by their size, by its logarithm where they span more than
// thirtyfold, others one beside the other.
function scaled({ name, values }) {
  const given = values.filter((value) => !NONE.includes(value));
  if (given.every((value) => typeof value === "number")) {
    const positive = given.every((value) => value > 0);
    const isLog = positive && Math.max(...given) / Math.min(...given) > 30;
    const size = isLog ? Math.log : (value) => value;
    const [low, high] = [Math.min(...given), Math.max(...given)];
    const span = size(high) - size(low) || 1;
    const kinds = [...new Set(given)].sort((a, b) => a - b);
    const isFar = kinds.every((value, at) => !at || (size(value) - size(kinds[at - 1])) / span > 0.12);
    const marks = [...new Set(isFar ? kinds : [low, high])].map((value) => [(size(value) - size(low)) / span, amount(value).textContent]);
    return { name, marks, at: (row) => (typeof values[row] === "number" ? (size(values[row]) - size(low)) / span : null) };
  }
  const kinds = [...new Set(given.map(String))].sort();
  const place = (value) => (kinds.length > 1 ? kinds.indexOf(String(value)) / (kinds.length - 1) : 0.5);
  return { name, marks: kinds.slice(0, 12).map((kind) => [place(kind), kind.slice(0, 18)]), at: (row) => (NONE.includes(values[row]) ? null : place(values[row])) };
}

function isDashed({ found }, row) {
  return found.jobs.length <= OWN && row > 5;
}

// From the worst of a result to the best one colour becomes another; of more jobs than have a colour of their own.
function shades(column, isLeast) {
  const style = getComputedStyle(document.documentElement);
  const [good, poor, none] = ["--c0", "--c1", "--line"].map((name) => style.getPropertyValue(name).trim());
  return (row) => {
    const y = column.at(row);
    if (y === null) return none;
    const share = Math.round(100 * (isLeast ? 1 - y : y));
    return `color-mix(in oklab, ${good} ${share}%, ${poor})`;
  };
}

function down(y) {
  return HEIGHT - BOTTOM - y * (HEIGHT - BOTTOM - TOP);
}

function svg(name, attributes, ...children) {
  const element = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function line(x1, y1, x2, y2) {
  return svg("line", { class: "axis", x1, y1, x2, y2 });
}

function text(x, y, word, anchor) {
  return svg("text", { x, y, "text-anchor": anchor }, word);
}
