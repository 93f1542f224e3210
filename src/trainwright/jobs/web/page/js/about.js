// What a job is: its parameters, those that are given first and the defaults folded, checkpoints, code and versions.

import { h, moment, number, pairs } from "./dom.js";

const APART = ["code", "versions", "ranks"]; // of what is kept with a job, what has places of its own

export class About {
  constructor() {
    this.params = h("div");
    this.rest = h("div");
    this.seen = "";
  }

  update(job) {
    const text = JSON.stringify([job.params, job.defaults, job.artifacts, job.kept, job.data, job.started, job.ended]);
    if (text === this.seen) return; // somebody may be reading what is folded
    this.seen = text;
    const given = Object.entries(job.params);
    const defaults = Object.entries(job.defaults ?? {}).filter(([name]) => !(name in job.params));
    this.params.replaceChildren(h("section", { class: "card" }, h("h2", {}, "Parameters"),
      given.length ? pairs(given, exact) : h("p", { class: "quiet" }, "None was given."), defaults.length > 0 && folded(`${defaults.length} at their defaults`, defaults)));
    const saved = job.artifacts.filter((one) => one.kind === "checkpoint").slice(-8).reverse();
    const kept = Object.entries(job.kept).filter(([name]) => !APART.includes(name));
    const { code, versions } = job.kept;
    const commit = code ? [["commit", code.commit.slice(0, 12)], ["changed since", code.changed.length ? code.changed.join(", ") : "nothing"]] : [];
    const when = ["started", "ended"].filter((name) => job[name]).map((name) => [name, moment(job[name])]);
    const facts = [["experiment", job.experiment], ...when, ["machine", job.host], ["folder", job.folder], ...kept, ...Object.entries(job.data), ...commit];
    this.rest.replaceChildren(
      h("section", { class: "card" }, h("h2", {}, "Checkpoints"),
        saved.length ? pairs(saved.map((one) => [`step ${one.step}`, one.path])) : h("p", { class: "quiet" }, "None yet.")),
      h("section", { class: "card" }, h("h2", {}, "About"), pairs(facts, exact), versions && folded(`${Object.keys(versions).length} installed versions`, Object.entries(versions))));
  }
}

// Many names and values, and a field that leaves those that hold a text.
function folded(title, rows) {
  const list = h("div");
  const draw = (text) => list.replaceChildren(pairs(rows.filter(([name]) => name.toLowerCase().includes(text.toLowerCase())), exact));
  const fold = h("details", { class: "more", ontoggle: () => !list.firstChild && draw("") }, h("summary", {}, title),
    h("input", { type: "search", placeholder: "Part of a name", "aria-label": `Search in ${title}`, oninput: (event) => draw(event.target.value) }), list);
  return fold;
}

// A value as it was given: of a parameter, a seed or a name every digit counts.
function exact(value) {
  return h("span", { class: typeof value === "number" ? "figure" : "" }, number(value));
}
