// A job again, with changed parameters.

import { post } from "./api.js";
import { failure, h } from "./dom.js";

const SECRET = { type: "password", placeholder: "as it was", autocomplete: "new-password" };

export function askAgain(job) {
  const names = Object.keys(job.params).filter((name) => name !== "output_dir");
  const first = (name) => (job.hidden.includes(name) ? "" : written(job.params[name])); // what is not shown is kept where nothing is written
  const fields = new Map(names.map((name) => [name, h("input", { value: first(name), id: `param-${name}`, ...(job.hidden.includes(name) && SECRET) })]));
  const problem = h("div");
  const dialog = h("dialog", { "aria-labelledby": "again-title" },
    h("form", { method: "dialog", onsubmit: send },
      h("h2", { id: "again-title" }, `Start ${job.name} again`),
      names.length ? h("div", { class: "fields" }, names.flatMap((name) => [h("label", { for: `param-${name}` }, name), fields.get(name)])) : h("p", { class: "quiet" }, "It has no parameters to change."),
      problem,
      h("div", { class: "row" }, h("span", { class: "grow" }), h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"), h("button", { class: "first", type: "submit" }, "Start"))));

  async function send(event) {
    event.preventDefault();
    try {
      const params = {};
      for (const [name, field] of fields) {
        if (field.value !== first(name)) params[name] = read(name, field.value, job.params[name]);
      }
      const { id } = await post(`jobs/${encodeURIComponent(job.id)}/again`, { params });
      dialog.close();
      location.hash = `#/job/${encodeURIComponent(id)}`;
    } catch (error) {
      problem.replaceChildren(failure(error.message));
    }
  }

  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

function written(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

// What was written, as the type that the parameter had where it is one; a text stays as it was written.
function read(name, text, before) {
  if (typeof before === "object" && before !== null) {
    try {
      return JSON.parse(text);
    } catch {
      throw new Error(`${name}: JSON is expected, such as ${written(before)}.`);
    }
  }
  if (typeof before === "boolean" && (text === "true" || text === "false")) return text === "true";
  return typeof before === "number" && String(Number(text)) === text ? Number(text) : text;
}
