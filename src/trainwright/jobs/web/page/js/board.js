// Curves by the beginning of their names (train/, eval/, rewards/ …), and how all of them are drawn.

import { Chart } from "./chart.js";
import { h } from "./dom.js";

const ASIDE = /(runtime|per_second|total_flos|generation_step|_to_\d+_tokens|(^|[/_])epoch|num_input_tokens_seen|num_tokens)$/;
const AXES = { epochs: /(^|\/)epoch$/, tokens: /(^|\/)(num_input_tokens_seen|num_tokens)$/ };
const ORDER = ["train", "eval", "rewards"]; // then others by name
const LAST = "system"; // which is folded until somebody opens it

export class Board {
  // `groups` are names with a key for every job: those of one key can be drawn as one curve.
  constructor(jobs, groups = {}) {
    this.state = { smooth: 0, log: false, axis: "step", axes: { step: null, time: "time" }, group: "", groups };
    Object.assign(this, { jobs, charts: new Map(), sections: new Map() });
    this.axis = h("select", { "aria-label": "Across", onchange: (event) => { this.state.axis = event.target.value; this.charts.forEach((chart) => { chart.range = null; }); this.load(); } });
    this.group = h("select", { "aria-label": "Mean by", onchange: (event) => { this.state.group = event.target.value; this.draw(); } });
    this.grouping = h("label", { hidden: true }, "Mean by", this.group);
    this.holder = h("div");
    this.element = h("section", { "aria-label": "Curves" }, this.settings(), this.holder);
    this.setGroups(groups);
    this.setAxes([]);
  }

  settings() {
    const { state } = this;
    return h("div", { class: "row settings" },
      h("label", {}, "Smoothing", h("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: 0,
        oninput: (event) => { state.smooth = Number(event.target.value); this.draw(); } })),
      h("label", {}, h("input", { type: "checkbox", onchange: (event) => { state.log = event.target.checked; this.draw(); } }), "Logarithmic"),
      h("label", {}, "Across", this.axis), this.grouping,
      h("span", { class: "quiet hint" }, "Drag to zoom, double-click to see all; arrow keys move the cursor."));
  }

  setGroups(groups) {
    this.state.groups = groups;
    const names = Object.keys(groups);
    if (JSON.stringify(names) === this.groupNames) return;
    this.groupNames = JSON.stringify(names);
    this.grouping.hidden = !names.length;
    if (!names.includes(this.state.group)) this.state.group = "";
    this.group.replaceChildren(h("option", { value: "" }, "no group"), ...names.map((name) => h("option", { value: name }, name)));
    this.group.value = this.state.group;
  }

  setAxes(names) {
    const { axes } = this.state;
    for (const [axis, pattern] of Object.entries(AXES)) axes[axis] ??= names.filter((name) => pattern.test(name)).sort((a, b) => b.startsWith("train") - a.startsWith("train"))[0];
    const known = ["step", "time", "tokens", "epochs"].filter((axis) => axes[axis] !== undefined);
    if (this.axis.children.length === known.length) return;
    this.axis.replaceChildren(...known.map((axis) => h("option", { value: axis }, axis)));
    this.axis.value = this.state.axis;
  }

  // `versions` say by name when a curve changed last: those that are as they were are not asked for again. `flat` are
  // those that never change, which few want to see.
  async update(names, before, versions, flat = []) {
    this.setAxes(names);
    for (const name of [...names].sort((a, b) => rank(a) - rank(b) || a.localeCompare(b))) {
      if (this.charts.has(name)) continue;
      const chart = new Chart(name, this.jobs, this.state);
      this.charts.set(name, chart);
      this.section(name).add(chart, ASIDE.test(name) || (flat.includes(name) && !name.endsWith("loss")));
    }
    this.charts.forEach((chart, name) => Object.assign(chart, { before: before[name] ?? [], version: JSON.stringify(versions[name]) }));
    await this.load();
  }

  section(metric) {
    const name = metric.includes("/") ? metric.split("/")[0] : "";
    if (!this.sections.has(name)) {
      this.sections.set(name, new Section(name, () => this.load()));
      const inOrder = [...this.sections.keys()].sort((a, b) => place(a) - place(b) || a.localeCompare(b));
      this.holder.replaceChildren(...inOrder.map((one) => this.sections.get(one).element));
      this.sections.forEach((one) => { one.summary.hidden = this.sections.size === 1; });
    }
    return this.sections.get(name);
  }

  async load() {
    const seen = [...this.sections.values()].flatMap((section) => section.seen());
    await Promise.all(seen.filter((chart) => chart.loaded !== chart.wanted).map((chart) => chart.load()));
  }

  draw() {
    this.charts.forEach((chart) => chart.draw());
  }

  close() {
    this.charts.forEach((chart) => chart.close());
  }
}

// Charts of one beginning: those that are worth one, and below, folded, the others.
class Section {
  constructor(name, load) {
    Object.assign(this, { charts: [], others: [] });
    this.main = h("div", { class: "charts" });
    this.rest = h("div", { class: "charts" });
    this.count = h("summary", {});
    this.more = h("details", { class: "more", hidden: true, ontoggle: () => this.more.open && load() }, this.count, this.rest);
    this.summary = h("summary", {}, name || "other");
    this.element = h("details", { class: "section", open: name !== LAST, ontoggle: () => this.element.open && load() }, this.summary, this.main, this.more);
  }

  add(chart, isAside) {
    (isAside ? this.others : this.charts).push(chart);
    this.more.hidden = !this.others.length;
    this.count.textContent = `${this.others.length} more`;
  }

  // The charts that are open, which are made part of the page by that.
  seen() {
    const main = this.element.open ? this.charts : [];
    const rest = this.element.open && this.more.open ? this.others : [];
    this.main.append(...main.map((chart) => chart.element).filter((one) => !one.parentNode));
    this.rest.append(...rest.map((chart) => chart.element).filter((one) => !one.parentNode));
    return [...main, ...rest];
  }
}

function place(name) {
  const at = ORDER.indexOf(name);
  return name === LAST ? 99 : at >= 0 ? at : ORDER.length;
}

function rank(name) {
  if (/(^|\/)loss$/.test(name)) return 0;
  return name.includes("rate") && name.startsWith("eval/") ? 1 : 2;
}
