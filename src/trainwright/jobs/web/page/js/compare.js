// Several jobs: curves over one another, and one table of what differs.

import { get, query, watch } from "./api.js";
import { amount, broken, failure, h, number, show, status, swatch } from "./dom.js";
import { Overlay } from "./overlay.js";
import { variants } from "./sweep.js";

const LOOK = 2000; // milliseconds at least between two looks
const FEW = 20; // parameters that are shown though only some of the jobs have them

export function comparePage(ids) {
  document.title = "Compare · Trainwright";
  const table = h("div");
  const problem = h("div");
  const overlay = new Overlay();
  let open = true;
  let timer = null;
  let begun = false;
  show(h("p", { class: "quiet" }, "Loading the jobs…"));

  async function look() {
    timer = null;
    try {
      const found = await get(`compare?${query("job", ids)}`);
      if (!open) return;
      if (!begun) {
        show(h("div", { class: "row" }, h("h1", {}, `Compare ${found.jobs.length} jobs`)), problem, overlay.element, table);
        begun = true;
      }
      problem.replaceChildren();
      const params = Object.entries(found.params);
      const partly = params.filter(([, values]) => variants(values) < 2).map(([name]) => name); // not of all jobs
      const folded = partly.length > FEW ? partly : [];
      table.replaceChildren(h("section", { class: "card scroll" }, h("table", { class: `compared ${isMany(found.jobs) ? "many" : ""}` }, head(found.jobs), h("tbody", {},
        params.filter(([name]) => !folded.includes(name)).map(([name, values]) => row(name, values, "differs", found.jobs, number)),
        [...Object.entries(found.code ?? {}), ...Object.entries(found.versions ?? {})].map(([name, values]) => row(name, values, "differs", found.jobs, number)),
        Object.entries(found.metrics).map(([name, values]) => row(name, values, "", found.jobs, amount))))),
        ...(folded.length ? [h("p", { class: "quiet" }, `${folded.length} parameters, which only some of these jobs have, are left out; trainwright jobs compare has them.`)] : []));
      await overlay.draw(found);
    } catch (error) {
      if (open && begun) problem.replaceChildren(failure(error.message));
      else if (open) show(failure(error.message, look));
    }
  }

  const stopWatching = watch(query("job", ids), () => {
    timer ??= setTimeout(look, begun ? LOOK : 0);
  });
  return () => {
    open = false;
    clearTimeout(timer);
    stopWatching();
    overlay.close();
  };
}

// Whether the table has no room for a column of each job, so that their values stand below one another.
function isMany(jobs) {
  return 110 * (jobs.length + 1) > Math.min(innerWidth, 1180) - 80;
}

function head(jobs) {
  return h("thead", {}, h("tr", {}, h("th", { scope: "col" }, ""), jobs.map((job, place) => h("th", { scope: "col" },
    swatch(place), h("a", { href: `#/job/${encodeURIComponent(job.id)}` }, `${job.name} ${job.id}`), " ", status(job)))));
}

function row(name, values, kind, jobs, written) {
  return h("tr", { class: kind }, h("th", { scope: "row" }, broken(name)), values.map((value, place) => h("td", { class: value === null ? "none" : "text" },
    h("span", { class: "of" }, swatch(place), `${jobs[place].name} ${jobs[place].id}`),
    h("span", { class: typeof value === "number" ? "figure" : "" }, value === null ? "" : written(value)))));
}
