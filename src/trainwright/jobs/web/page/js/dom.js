// Elements from names, attributes and children. Text is only ever set as text, so nothing of a job becomes markup.

import { server } from "./api.js";

export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "value" || key === "checked" || key === "disabled") element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function show(...children) {
  const main = document.getElementById("main");
  main.replaceChildren(...children);
}

export function status(job) {
  const asked = job.status === "RUNNING" && job.stop_requested !== null;
  return h("span", { class: `status ${job.status}` }, asked ? "STOPPING" : job.status);
}

export function number(value) {
  if (value === null || value === undefined) return "none";
  if (typeof value === "object") return JSON.stringify(value);
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return String(value);
  return Math.abs(value) >= 1e-3 && Math.abs(value) < 1e6 ? String(Number(value.toPrecision(5))) : Number(value.toPrecision(4)).toExponential();
}

const UNITS = ["", "", " M", " G", " T", " P", " E"];

// A number of a run, with a unit where it is large, and as it is where one points at it.
export function amount(value) {
  const size = typeof value === "number" && Number.isFinite(value) ? Math.floor(Math.log10(Math.abs(value)) / 3) : 0;
  const unit = UNITS[size] ?? "";
  const text = unit ? String(Number((value / 1000 ** size).toPrecision(4))) + unit : number(value);
  return h("span", { class: typeof value === "number" ? "figure" : "", title: unit ? String(value) : null }, text);
}

// The colour of a curve, by its job's place; there are six, and the lines of those after them are dashed.
export function swatch(place) {
  return h("span", { class: `swatch c${place % 6} ${place > 5 ? "dashed" : ""}` });
}

// A name that breaks behind its points, slashes and underscores where it has to.
export function broken(name) {
  return name.split(/(?<=[./_])/).flatMap((part) => [part, h("wbr")]);
}

// Names and values, each pair a line of its own.
export function pairs(rows, written = amount) {
  return h("dl", {}, rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value instanceof Node ? value : written(value)))));
}

export function span(seconds) {
  const whole = Math.max(Math.floor(seconds), 0);
  if (whole < 100) return `${whole} s`;
  const two = (value) => String(value).padStart(2, "0");
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor((whole % 3600) / 60);
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

// A time since 1970 as the clock of this place has it.
export function moment(seconds) {
  return new Date(1000 * seconds).toLocaleString("sv").slice(0, 16);
}

// How long all attempts of a job ran together, or how long it waits; and how long it will still run.
export function times(job) {
  const until = job.ended ?? Date.now() / 1000 + server.ahead;
  const passed = job.started === null ? job.ran || until - job.created : job.ran + until - job.started;
  const left = job.status === "RUNNING" && job.progress > 0 && job.started !== null ? (passed * (100 - job.progress)) / job.progress : null;
  return { passed: span(passed), left: left === null ? "" : span(left) };
}

export function failure(text, again) {
  return h("div", { class: "card error", role: "alert" }, h("p", {}, text), again && h("button", { onclick: again }, "Try again"));
}
