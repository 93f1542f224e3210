// The jobs, a page at a time, live.

import { query, watch } from "./api.js";
import { h, show, status, times } from "./dom.js";

const chosen = new Set();
const filter = { text: "", status: "", offset: 0 };
const PAGE = 50;
const TYPING = 250; // milliseconds without a key, after which is looked

export function listPage() {
  document.title = "Jobs · Trainwright";
  const body = h("tbody");
  const compare = h("button", { class: "first", disabled: true, onclick: () => (location.hash = `#/compare/${[...chosen].join(",")}`) }, "Compare");
  const count = h("span", { class: "quiet", role: "status" });
  let found = null;
  let stopWatching = () => {};
  let typing = null;
  const search = h("input", { type: "search", placeholder: "Name, experiment or parameter", "aria-label": "Search", value: filter.text,
    oninput: (event) => { clearTimeout(typing); const text = event.target.value; typing = setTimeout(() => look({ text, offset: 0 }), TYPING); } });
  const names = ["", "RUNNING", "QUEUED", "COMPLETE", "FAILED", "STOPPED", "INTERRUPTED", "LOST"];
  const states = h("select", { "aria-label": "Status", onchange: (event) => look({ status: event.target.value, offset: 0 }) },
    names.map((name) => h("option", { value: name }, name || "All statuses")));
  states.value = filter.status;
  const table = h("div", { class: "card scroll" }, h("table", { class: "jobs" },
    h("thead", {}, h("tr", {}, ["", "Job", "Experiment", "Status", "Progress", "Time", "Left"].map((name) => h("th", { scope: "col" }, name)))), body));
  const newer = h("button", { onclick: () => look({ offset: Math.max(filter.offset - PAGE, 0) }) }, "Newer");
  const older = h("button", { onclick: () => look({ offset: filter.offset + PAGE }) }, "Older");
  const place = h("span", { class: "quiet", role: "status" });
  const pages = h("nav", { class: "row", "aria-label": "Pages", hidden: true }, h("span", { class: "grow" }), place, newer, older);
  const empty = h("div", { class: "card empty" }, h("p", {}, "There are no jobs yet."),
    h("p", { class: "quiet" }, "Put one into the queue, and let a worker run it:"),
    h("pre", {}, "trainwright jobs submit script.py --param learning_rate=1e-4\ntrainwright jobs worker"));
  show(h("div", { class: "row" }, h("h1", {}, "Jobs"), count, h("span", { class: "grow" }), search, states, compare), table, pages);

  function look(change) {
    Object.assign(filter, change);
    stopWatching();
    const words = [["text", filter.text], ["status", filter.status], ["offset", filter.offset], ["limit", PAGE]];
    stopWatching = watch(words.filter(([, value]) => value !== "").map(([name, value]) => query(name, [value])).join("&"), (now) => {
      found = now;
      if (!found.jobs.length && filter.offset) look({ offset: Math.max(Math.ceil(found.total / PAGE) - 1, 0) * PAGE }); // they were removed
      else draw();
    });
  }

  function draw() {
    const { jobs, total, counts } = found;
    const all = Object.values(counts).reduce((sum, one) => sum + one, 0);
    compare.disabled = chosen.size < 2;
    count.textContent = `${all.toLocaleString("en")} in all, ${counts.RUNNING ?? 0} running`;
    const kept = new Map([...body.children].map((row) => [row.dataset.job, row]));
    const wanted = jobs.map((job) => update(kept.get(job.id) ?? makeRow(job), job));
    wanted.forEach((row, at) => { if (body.children[at] !== row) body.insertBefore(row, body.children[at] ?? null); });
    while (body.children.length > wanted.length) body.lastChild.remove();
    pages.hidden = total <= PAGE;
    place.textContent = `${filter.offset + 1}–${filter.offset + jobs.length} of ${total.toLocaleString("en")}`;
    newer.disabled = !filter.offset;
    older.disabled = filter.offset + jobs.length >= total;
    const shown = all ? table : empty;
    const other = all ? empty : table;
    if (other.isConnected) other.replaceWith(shown);
  }

  function makeRow(job) {
    const box = h("input", { type: "checkbox", "aria-label": `Choose ${job.name} ${job.id} to compare`, checked: chosen.has(job.id),
      onchange: (event) => { event.target.checked ? chosen.add(job.id) : chosen.delete(job.id); compare.disabled = chosen.size < 2; } });
    const row = h("tr", { "data-job": job.id }, h("td", {}, box),
      h("td", { class: "text" }, h("a", { href: `#/job/${encodeURIComponent(job.id)}` }, job.name), " ", h("span", { class: "quiet" }, job.id)),
      h("td", { class: "text", "data-label": "Experiment" }, job.experiment), h("td", { "data-label": "Status" }), h("td", { "data-label": "Progress" }),
      h("td", { class: "number", "data-label": "Time" }), h("td", { class: "number", "data-label": "Left" }));
    return row;
  }

  function update(row, job) {
    const cells = row.children;
    cells[3].replaceChildren(status(job));
    cells[3].title = job.message ?? "";
    if (!cells[4].firstChild) cells[4].append(h("progress", { max: 100, "aria-label": `Progress of ${job.name}` }));
    cells[4].firstChild.value = job.progress;
    time(row, job);
    return row;
  }

  function time(row, job) {
    const { passed, left } = times(job);
    row.children[5].textContent = passed;
    row.children[6].textContent = left;
  }

  const clock = setInterval(() => {
    found?.jobs.forEach((job, at) => { if (job.ended === null && body.children[at]) time(body.children[at], job); });
  }, 1000);
  look({});
  return () => { stopWatching(); clearInterval(clock); clearTimeout(typing); };
}
