// Which columns the list has: a dialog with all parameters, metrics and facts of jobs, searched by their names.

import { get } from "./api.js";
import { h } from "./dom.js";

const MOST = 120; // that are offered at once; a search finds the others
const KINDS = { last: "last", least: "least", greatest: "greatest" };

// What a key is called: a parameter and the last value of a metric by their own names.
export function titleOf(key) {
  const [kind, ...rest] = key.split(":");
  const name = rest.join(":");
  if (kind === "param") return name.replace(/^training\./, "");
  if (kind === "last") return name;
  return rest.length ? `${kind} ${name}` : key;
}

export function columnsButton(chosen, choose) {
  return h("button", { onclick: () => open(chosen(), choose) }, "Columns");
}

async function open(before, choose) {
  const picked = new Set(before);
  const rows = h("div", { class: "choices" });
  const search = h("input", { type: "search", placeholder: "A part of the name", "aria-label": "Search columns", oninput: () => draw() });
  const box = h("dialog", { class: "picker", "aria-label": "Columns" }, h("h2", {}, "Columns"), search, rows,
    h("div", { class: "row" }, h("button", { onclick: () => { picked.clear(); draw(); } }, "None"), h("span", { class: "grow" }),
      h("button", { onclick: () => box.close() }, "Cancel"),
      h("button", { class: "first", onclick: () => { choose([...picked].map(encodeURIComponent)); box.close(); } }, "Show")));
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
  let all = { columns: [], params: [], metrics: [] };
  try {
    all = await get("choices");
  } catch (error) {
    rows.replaceChildren(h("p", { class: "wrong" }, error.message));
    return;
  }

  function line(key, title) {
    return h("label", {}, h("input", { type: "checkbox", checked: picked.has(key), onchange: (event) => { event.target.checked ? picked.add(key) : picked.delete(key); } }), title);
  }

  function draw() {
    const text = search.value.toLowerCase();
    const part = (title, names, made) => {
      const fitting = names.filter((name) => name.toLowerCase().includes(text));
      if (!fitting.length) return "";
      return h("section", {}, h("h3", {}, title), fitting.slice(0, MOST).map(made),
        fitting.length > MOST ? h("p", { class: "quiet" }, `${fitting.length - MOST} more; search for a part of the name.`) : "");
    };
    rows.replaceChildren(
      part("Metrics", all.metrics, (name) => h("div", { class: "metric" }, h("span", {}, name), Object.entries(KINDS).map(([kind, title]) => line(`${kind}:${name}`, title)))),
      part("Parameters", all.params, (name) => line(`param:${name}`, name)),
      part("Job", all.columns.filter((name) => !["id", "name", "experiment", "status", "progress", "tags"].includes(name)), (name) => line(name, name)));
  }
  draw();
  search.focus();
}
