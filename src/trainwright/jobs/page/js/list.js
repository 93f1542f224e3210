// All jobs, live.

import { watch } from "./api.js";
import { h, show, status, times } from "./dom.js";

const chosen = new Set();
const filter = { text: "", status: "" };

export function listPage() {
  document.title = "Jobs · Trainwright";
  const body = h("tbody");
  const compare = h("button", { class: "first", disabled: true, onclick: () => (location.hash = `#/compare/${[...chosen].join(",")}`) }, "Compare");
  const count = h("span", { class: "quiet", role: "status" });
  let jobs = null;
  const search = h("input", { type: "search", placeholder: "Name, experiment or parameter", "aria-label": "Search", value: filter.text,
    oninput: (event) => { filter.text = event.target.value.toLowerCase(); draw(); } });
  const names = ["", "RUNNING", "QUEUED", "COMPLETE", "FAILED", "STOPPED", "INTERRUPTED", "LOST"];
  const states = h("select", { "aria-label": "Status", onchange: (event) => { filter.status = event.target.value; draw(); } },
    names.map((name) => h("option", { value: name }, name || "All statuses")));
  states.value = filter.status;
  const table = h("div", { class: "card scroll" }, h("table", { class: "jobs" },
    h("thead", {}, h("tr", {}, ["", "Job", "Experiment", "Status", "Progress", "Time", "Left"].map((name) => h("th", { scope: "col" }, name)))), body));
  const empty = h("div", { class: "card empty" }, h("p", {}, "There are no jobs yet."),
    h("p", { class: "quiet" }, "Put one into the queue, and let a worker run it:"),
    h("pre", {}, "trainwright jobs submit script.py --param learning_rate=1e-4\ntrainwright jobs worker"));
  show(h("div", { class: "row" }, h("h1", {}, "Jobs"), count, h("span", { class: "grow" }), search, states, compare), table);

  function matches(job) {
    const words = `${job.id} ${job.name} ${job.experiment} ${JSON.stringify(job.params)}`.toLowerCase();
    return (!filter.status || job.status === filter.status) && words.includes(filter.text);
  }

  function draw() {
    if (jobs === null) return;
    for (const id of [...chosen]) if (!jobs.some((job) => job.id === id)) chosen.delete(id);
    compare.disabled = chosen.size < 2;
    count.textContent = `${jobs.length} in all, ${jobs.filter((job) => job.status === "RUNNING").length} running`;
    const found = jobs.filter(matches);
    const kept = new Map([...body.children].map((row) => [row.dataset.job, row]));
    const wanted = found.map((job) => update(kept.get(job.id) ?? makeRow(job), job));
    wanted.forEach((row, place) => { if (body.children[place] !== row) body.insertBefore(row, body.children[place] ?? null); });
    while (body.children.length > wanted.length) body.lastChild.remove();
    const shown = jobs.length ? table : empty;
    const other = jobs.length ? empty : table;
    if (other.isConnected) other.replaceWith(shown);
  }

  function makeRow(job) {
    const box = h("input", { type: "checkbox", "aria-label": `Choose ${job.name} ${job.id} to compare`, checked: chosen.has(job.id),
      onchange: (event) => { event.target.checked ? chosen.add(job.id) : chosen.delete(job.id); compare.disabled = chosen.size < 2; } });
    const row = h("tr", { "data-job": job.id }, h("td", {}, box),
      h("td", { class: "text" }, h("a", { href: `#/job/${encodeURIComponent(job.id)}` }, job.name), " ", h("span", { class: "quiet" }, job.id)),
      h("td", { class: "text" }, job.experiment), h("td", {}), h("td", { class: "wide" }), h("td", { class: "number" }), h("td", { class: "number" }));
    return row;
  }

  function update(row, job) {
    const cells = row.children;
    const { passed, left } = times(job);
    cells[3].replaceChildren(status(job));
    cells[3].title = job.message ?? "";
    if (!cells[4].firstChild) cells[4].append(h("progress", { max: 100, "aria-label": `Progress of ${job.name}` }));
    cells[4].firstChild.value = job.progress;
    cells[5].textContent = passed;
    cells[6].textContent = left;
    return row;
  }

  const stopWatching = watch((found) => { jobs = found; draw(); });
  const clock = setInterval(draw, 1000);
  return () => { stopWatching(); clearInterval(clock); };
}
