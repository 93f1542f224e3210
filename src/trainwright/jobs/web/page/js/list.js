// The jobs, a page at a time, live: which, in what order, together by what, and what is shown of each stands in the address.

import { query, watch } from "./api.js";
import { bulk } from "./bulk.js";
import { columnsButton, titleOf } from "./columns.js";
import { h, moment, number, show, status, times } from "./dom.js";
import { Overlay } from "./overlay.js";

const DEFAULTS = { q: "", text: "", status: "", sort: "-created", group: "", columns: "", offset: 0 };
const PAGE = 50;
const TYPING = 250; // milliseconds without a key, after which is looked
const MOMENTS = ["created", "started", "ended"];
const OWN = [["Job", "name"], ["Experiment", "experiment"], ["Status", "status"], ["Progress", "progress"], ["Time", "-started"], ["Left", null]];
const chosen = new Map(); // by name the status that it had when it was seen last
const closed = new Set(); // groups
let remembered = "";

function read() {
  const words = new URLSearchParams(location.hash.split("?")[1] ?? remembered);
  const filter = Object.fromEntries(Object.entries(DEFAULTS).map(([name, usual]) => [name, words.get(name) ?? usual]));
  filter.offset = Math.max(Number(filter.offset) || 0, 0);
  return filter;
}

function keep(filter) {
  const words = new URLSearchParams(Object.entries(filter).filter(([name, value]) => String(value) !== String(DEFAULTS[name])));
  remembered = words.toString();
  if (remembered || location.hash.includes("?")) history.replaceState(null, "", remembered ? `#/?${remembered}` : "#/");
}

export function listPage() {
  document.title = "Jobs · Trainwright";
  const filter = read();
  const body = h("tbody");
  const head = h("tr");
  const wrong = h("p", { class: "wrong", role: "alert", hidden: true });
  const count = h("span", { class: "quiet", role: "status" });
  const overlay = new Overlay(); // the curves of those that are chosen
  let found = null;
  let stopWatching = () => {};
  let typing = null;
  const actions = bulk(chosen, () => draw());
  const field = (name, placeholder, label) => h("input", { type: "search", placeholder, "aria-label": label, value: filter[name], class: name,
    oninput: (event) => { clearTimeout(typing); const text = event.target.value; typing = setTimeout(() => look({ [name]: text, offset: 0 }), TYPING); } });
  const names = ["", "RUNNING", "QUEUED", "COMPLETE", "FAILED", "STOPPED", "INTERRUPTED", "LOST"];
  const states = h("select", { "aria-label": "Status", onchange: (event) => look({ status: event.target.value, offset: 0 }) },
    names.map((name) => h("option", { value: name }, name || "All statuses")));
  states.value = filter.status;
  const group = h("select", { "aria-label": "Group by", onchange: (event) => look({ group: event.target.value, offset: 0 }) });
  const table = h("div", { class: "card scroll" }, h("table", { class: "jobs" }, h("thead", {}, head), body));
  const newer = h("button", { onclick: () => look({ offset: Math.max(filter.offset - PAGE, 0) }) }, "Newer");
  const older = h("button", { onclick: () => look({ offset: filter.offset + PAGE }) }, "Older");
  const place = h("span", { class: "quiet", role: "status" });
  const pages = h("nav", { class: "row", "aria-label": "Pages", hidden: true }, h("span", { class: "grow" }), place, newer, older);
  const empty = h("div", { class: "card empty" }, h("p", {}, "There are no jobs yet."),
    h("p", { class: "quiet" }, "Put one into the queue, and let a worker run it:"),
    h("pre", {}, "trainwright jobs submit script.py --param learning_rate=1e-4\ntrainwright jobs worker"));
  show(h("div", { class: "row" }, h("h1", {}, "Jobs"), count, h("span", { class: "grow" }), field("text", "Name, tag or parameter", "Search"), states),
    h("div", { class: "row" }, field("q", "lr > 1e-4 and loss < 2", "Query"), group, columnsButton(() => shown(), (columns) => look({ columns: columns.join(",") })),
      h("span", { class: "grow" }), actions.element), wrong, table, pages, overlay.element);

  function shown() {
    return filter.columns.split(",").filter(Boolean).map(decodeURIComponent);
  }

  function look(change) {
    Object.assign(filter, change);
    keep(filter);
    stopWatching();
    drawHead();
    const words = [["q", filter.q], ["text", filter.text], ["status", filter.status], ["sort", filter.sort], ["group", filter.group], ["offset", filter.offset], ["limit", PAGE], ...shown().map((name) => ["show", name])];
    stopWatching = watch(words.filter(([, value]) => value !== "").map(([name, value]) => query(name, [value])).join("&"), (now) => {
      found = now;
      wrong.hidden = true;
      if (!found.jobs.length && filter.offset) look({ offset: Math.max(Math.ceil(found.total / PAGE) - 1, 0) * PAGE }); // they were removed
      else draw();
    }, (error) => { wrong.textContent = error; wrong.hidden = !error; });
  }

  function drawHead() {
    const groups = ["", "experiment", "name", "status", "host", ...shown().filter((name) => name.startsWith("param:"))];
    if (filter.group && !groups.includes(filter.group)) groups.push(filter.group);
    group.replaceChildren(...groups.map((name) => h("option", { value: name }, name ? `Group by ${titleOf(name)}` : "No groups")));
    group.value = filter.group;
    const all = h("input", { type: "checkbox", "aria-label": "Choose all that are shown", onchange: (event) => {
      for (const job of found?.jobs ?? []) event.target.checked ? chosen.set(job.id, job.status) : chosen.delete(job.id);
      draw();
    } });
    head.replaceChildren(h("th", { scope: "col" }, all), ...OWN.map(([title, key]) => sortable(title, key, "")),
      ...shown().map((name) => sortable(titleOf(name), name, "number chosen")));
  }

  function sortable(title, key, kind) {
    if (key === null) return h("th", { scope: "col" }, title);
    const other = key.startsWith("-") ? key.slice(1) : `-${key}`;
    const by = filter.sort === key ? key : filter.sort === other ? other : null;
    const arrow = by === null ? "" : by.startsWith("-") ? " ↓" : " ↑";
    return h("th", { scope: "col", class: kind, "aria-sort": by === null ? null : by.startsWith("-") ? "descending" : "ascending" },
      h("button", { class: "plain", onclick: () => look({ sort: filter.sort === key ? other : filter.sort === other ? DEFAULTS.sort : key, offset: 0 }) }, title + arrow));
  }

  function draw() {
    if (!found) return;
    const { jobs, total, counts } = found;
    const all = Object.values(counts).reduce((sum, one) => sum + one, 0);
    for (const job of jobs) if (chosen.has(job.id)) chosen.set(job.id, job.status);
    overlay.show([...chosen.keys()]);
    overlay.changed();
    count.textContent = `${all.toLocaleString("en")} in all, ${counts.RUNNING ?? 0} running`;
    const kept = new Map([...body.children].filter((row) => row.dataset.job && row.dataset.columns === filter.columns).map((row) => [row.dataset.job, row]));
    const rows = [];
    let before;
    for (const job of jobs) {
      const value = job.values?.[filter.group] ?? null;
      if (filter.group && (!rows.length || value !== before)) rows.push(groupRow(value));
      before = value;
      const row = update(kept.get(job.id) ?? makeRow(job), job);
      row.hidden = filter.group !== "" && closed.has(String(value));
      rows.push(row);
    }
    rows.forEach((row, at) => { if (body.children[at] !== row) body.insertBefore(row, body.children[at] ?? null); });
    while (body.children.length > rows.length) body.lastChild.remove();
    pages.hidden = total <= PAGE;
    place.textContent = jobs.length ? `${filter.offset + 1}–${filter.offset + jobs.length} of ${total.toLocaleString("en")}` : "No such jobs";
    newer.disabled = !filter.offset;
    older.disabled = filter.offset + jobs.length >= total;
    if (all && !jobs.length) body.replaceChildren(h("tr", { class: "group" }, h("td", { colspan: OWN.length + 1 + shown().length }, "There are no such jobs.")));
    const there = all ? table : empty;
    const other = all ? empty : table;
    if (other.isConnected) other.replaceWith(there);
    actions.update();
  }

  function groupRow(value) {
    const told = found.groups?.find((one) => one.value === value || String(one.value) === String(value));
    const name = String(value);
    const open = !closed.has(name);
    return h("tr", { class: "group" }, h("td", { colspan: OWN.length + 1 + shown().length },
      h("button", { class: "plain", "aria-expanded": String(open), onclick: () => { open ? closed.add(name) : closed.delete(name); draw(); } },
        `${open ? "▾" : "▸"} ${titleOf(filter.group)} = ${value === null ? "none" : number(value)}`),
      h("span", { class: "quiet" }, told ? ` ${told.count} ${told.count === 1 ? "job" : "jobs"}` : "")));
  }

  function makeRow(job) {
    const box = h("input", { type: "checkbox", "aria-label": `Choose ${job.name} ${job.id} to compare`,
      onchange: (event) => { event.target.checked ? chosen.set(job.id, job.status) : chosen.delete(job.id); actions.update(); overlay.show([...chosen.keys()]); } });
    return h("tr", { "data-job": job.id, "data-columns": filter.columns }, h("td", {}, box), h("td", { class: "text" }),
      h("td", { class: "text", "data-label": "Experiment" }, job.experiment), h("td", { "data-label": "Status" }), h("td", { "data-label": "Progress" }),
      h("td", { class: "number", "data-label": "Time" }), h("td", { class: "number", "data-label": "Left" }),
      shown().map((name) => h("td", { class: "number", "data-label": titleOf(name) })));
  }

  function update(row, job) {
    const cells = row.children;
    cells[0].firstChild.checked = chosen.has(job.id);
    cells[1].replaceChildren(h("a", { href: `#/job/${encodeURIComponent(job.id)}` }, job.name), " ", h("span", { class: "quiet" }, job.id),
      ...(job.tags ?? []).flatMap((tag) => [" ", h("button", { class: "tag", title: `Only those with the tag ${tag}`, onclick: () => only(tag) }, tag)]),
      job.note ? h("div", { class: "quiet note" }, job.note) : "");
    cells[3].replaceChildren(status(job));
    cells[3].title = job.message ?? "";
    if (!cells[4].firstChild) cells[4].append(h("progress", { max: 100, "aria-label": `Progress of ${job.name}` }));
    cells[4].firstChild.value = job.progress;
    shown().forEach((name, at) => {
      cells[OWN.length + 1 + at].textContent = cell(name, job.values?.[name]);
      cells[OWN.length + 1 + at].className = typeof job.values?.[name] === "string" ? "words" : "number";
    });
    time(row, job);
    return row;
  }

  function only(tag) {
    look({ q: `tag = ${JSON.stringify(tag)}`, offset: 0 });
    document.querySelector("input.q").value = filter.q;
  }

  function time(row, job) {
    const { passed, left } = times(job);
    row.children[5].textContent = passed;
    row.children[6].textContent = left;
  }

  const clock = setInterval(() => {
    const rows = new Map([...body.children].map((row) => [row.dataset.job, row]));
    found?.jobs.forEach((job) => { if (job.ended === null && rows.has(job.id)) time(rows.get(job.id), job); });
  }, 1000);
  look({});
  return () => { overlay.close(); stopWatching(); clearInterval(clock); clearTimeout(typing); };
}

function cell(name, value) {
  if (value === null || value === undefined) return "";
  if (MOMENTS.includes(name)) return moment(value);
  return name === "tags" ? "" : number(value);
}
