// Curves of several jobs over one another: below the list, for those that are chosen, and on the page of a comparison.

import { get, query } from "./api.js";
import { Board } from "./board.js";
import { h, swatch } from "./dom.js";
import { Sweep } from "./sweep.js";

const LOOK = 2000; // milliseconds between two looks while something changes
const MOST = 40; // jobs whose curves are drawn below the list, for many are chosen to be removed

export class Overlay {
  constructor() {
    Object.assign(this, { board: null, ids: [], timer: null });
    this.legend = h("div", { class: "legend" });
    this.holder = h("div");
    this.sweep = new Sweep();
    this.problem = h("p", { class: "quiet", role: "status" });
    this.element = h("section", { "aria-label": "Chosen jobs" }, this.legend, this.problem, this.sweep.element, this.holder);
  }

  // Show other jobs, or none.
  show(ids) {
    this.rest = ids.length - MOST;
    if (JSON.stringify(ids.slice(0, MOST)) === JSON.stringify(this.ids)) return this.tellRest();
    this.ids = ids.slice(0, MOST);
    this.look();
  }

  // Look again soon, for one of the jobs has changed.
  changed() {
    if (this.ids.length) this.timer ??= setTimeout(() => this.look(), LOOK);
  }

  async look() {
    clearTimeout(this.timer);
    this.timer = null;
    const asked = this.ids;
    if (!asked.length) return this.clear();
    try {
      const found = await get(`compare?${query("job", asked)}`);
      if (asked === this.ids) await this.draw(found);
    } catch (error) {
      this.problem.textContent = error.message;
    }
  }

  async draw(found) {
    const names = found.jobs.map((job) => job.id).join();
    if (names !== this.names) {
      this.clear();
      this.names = names;
      this.board = new Board(found.jobs);
      this.holder.replaceChildren(this.board.element);
      this.legend.replaceChildren(...found.jobs.map((job, place) => h("span", {}, swatch(place), h("a", { href: `#/job/${encodeURIComponent(job.id)}` }, `${job.name} ${job.id}`))));
    }
    this.tellRest();
    this.board.setGroups(groups(found));
    this.sweep.update(found);
    await this.board.update(found.curves, {}, found.metric_versions, found.flat);
  }

  tellRest() {
    this.problem.textContent = this.rest > 0 ? `The first ${MOST} of those that are chosen; Compare draws all.` : "";
  }

  clear() {
    this.board?.close();
    this.board = this.names = null;
    this.holder.replaceChildren();
    this.legend.replaceChildren();
    this.sweep.element.hidden = true;
  }

  close() {
    this.ids = [];
    clearTimeout(this.timer);
    this.clear();
  }
}

// By what jobs can be drawn as one curve: experiment, name, and every parameter that some of them have in common.
function groups({ jobs, params }) {
  const found = { experiment: jobs.map((job) => job.experiment), name: jobs.map((job) => job.name), ...params };
  const named = Object.entries(found).map(([name, values]) => [name, values.map((value) => (value === null ? "none" : typeof value === "object" ? JSON.stringify(value) : String(value)))]);
  return Object.fromEntries(named.filter(([, keys]) => new Set(keys).size < jobs.length));
}
