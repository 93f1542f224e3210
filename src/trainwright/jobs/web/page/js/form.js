// Train from the page: the values of a recipe or a file, checked as they are typed, with the command that would run them.

import { get, post } from "./api.js";
import { failure, h, show } from "./dom.js";

const TYPING = 400; // milliseconds without a key, after which is checked

export function formPage() {
  document.title = "Train · Trainwright";
  let open = true;
  let found = null;
  let file = null;
  let timer = null;
  let asked = 0;
  const changes = new Map(); // by key, as text
  const added = new Set();
  const choice = h("select", { "aria-label": "Recipe", onchange: choose });
  const name = h("input", { "aria-label": "Name of the job", placeholder: "the file's" });
  const fields = h("div");
  const known = h("datalist", { id: "keys" });
  const more = h("input", { "aria-label": "Another key", list: "keys", placeholder: "Another key, such as training.seed", onchange: addKey });
  const said = h("pre", { "aria-label": "Check", role: "status" });
  const verdict = h("h2", {}, "Check");
  const command = h("pre", { "aria-label": "Command" });
  const problem = h("div");
  const train = h("button", { class: "first", disabled: true, onclick: submit }, "Put into the queue");
  show(h("div", { class: "row" }, h("h1", {}, "Train")), h("p", { class: "quiet" }, "Loading the recipes…"));
  begin();

  async function begin() {
    try {
      found = await get("form");
    } catch (error) {
      if (open) show(h("h1", {}, "Train"), failure(error.message, begin));
      return;
    }
    if (!open) return;
    choice.replaceChildren(...found.files.map((one, place) => h("option", { value: place }, one.kind === "recipe" ? `recipe ${one.name}` : one.name)));
    const sft = found.files.findIndex((one) => one.name === "sft.yaml");
    choice.value = found.files.findIndex((one) => one.kind === "file") >= 0 ? 0 : Math.max(sft, 0);
    known.replaceChildren(...found.keys.map((key) => h("option", { value: key.name }, key.words)));
    show(h("div", { class: "row" }, h("h1", {}, "Train"), h("span", { class: "quiet" }, `in ${found.folder}`)), problem,
      h("div", { class: "form" },
        h("section", { class: "card", "aria-label": "Values" }, h("div", { class: "asking" }, h("label", {}, "Recipe", choice), h("label", {}, "Name of the job", name)), fields, known, more),
        h("div", { class: "sticky" }, h("section", { class: "card" }, verdict, said), h("section", { class: "card" }, h("h2", {}, "What it would run"), command, h("div", { class: "row end" }, h("span", { class: "grow" }), train)))));
    choose();
  }

  function choose() {
    file = found.files[choice.value];
    changes.clear();
    added.clear();
    draw();
    changed();
  }

  function draw() {
    const names = [...Object.keys(file.values), ...[...added].filter((key) => !(key in file.values))];
    const sections = grouped(names);
    fields.replaceChildren(...[...sections].map(([section, mine]) => h("fieldset", {}, h("legend", {}, section), mine.map((key) => field(key)))));
  }

  function field(key) {
    const about = found.keys.find((one) => one.name === key.replace(/\[\d+\]/, "[0]")) ?? { type: "text", choices: [], words: "" };
    const given = written(file.values[key]);
    const id = `key-${key}`;
    const type = { number: "number", integer: "number" }[about.type];
    const tell = (event) => set(key, event.target.value, given, event.target.closest(".field"));
    const words = about.type === "boolean" ? ["true", "false"] : about.choices.map(String);
    const input = words.length ? h("select", { id, onchange: tell }, [...new Set(["", given, ...words])].map((one) => h("option", { value: one }, one || "(default)")))
      : h("input", { id, ...(type && !Number.isNaN(Number(given)) && { inputmode: "decimal" }), oninput: tell });
    input.value = changes.get(key) ?? given;
    return h("div", { class: `field ${changes.has(key) ? "set" : ""}` }, h("label", { for: id }, key.split(".").slice(1).join(".")), input, about.words && h("small", {}, about.words));
  }

  function set(key, text, given, row) {
    if (text === given) changes.delete(key);
    else changes.set(key, text);
    row.classList.toggle("set", changes.has(key));
    changed();
  }

  function addKey() {
    const key = more.value.trim();
    if (!found.keys.some((one) => one.name === key)) return;
    more.value = "";
    added.add(key);
    draw();
    document.getElementById(`key-${key}`).focus();
  }

  function values() {
    return Object.fromEntries([...changes].map(([key, text]) => [key, text === "" ? "null" : text]));
  }

  function changed() {
    const words = Object.entries(values()).map(([key, text]) => quoted(`${key}=${text}`));
    const before = file.kind === "recipe" ? `trainwright init ${file.name.replace(".yaml", "")} ${file.name}\n` : "";
    command.textContent = `${before}trainwright train ${[file.name, ...words].join(" \\\n  ")}`;
    train.disabled = true;
    verdict.className = "quiet";
    verdict.textContent = "Checking…";
    clearTimeout(timer);
    timer = setTimeout(check, TYPING);
  }

  async function check() {
    const mine = ++asked;
    const told = await post("form/check", { file: file.name, kind: file.kind, values: values() }).catch((error) => ({ good: false, text: error.message }));
    if (!open || mine !== asked) return;
    verdict.className = told.good ? "right" : "wrong";
    verdict.textContent = told.good ? "Nothing is wrong" : "This is to be mended";
    said.textContent = told.text;
    train.disabled = !told.good;
  }

  async function submit() {
    train.disabled = true;
    try {
      const { id } = await post("form/train", { file: file.name, kind: file.kind, values: values(), name: name.value.trim() });
      location.hash = `#/job/${encodeURIComponent(id)}`;
    } catch (error) {
      problem.replaceChildren(failure(error.message));
      train.disabled = false;
    }
  }

  return () => { open = false; clearTimeout(timer); };
}

function grouped(names) {
  const found = new Map();
  for (const key of names) found.set(key.split(".")[0], [...(found.get(key.split(".")[0]) ?? []), key]);
  return found;
}

function written(value) {
  if (value === null || value === undefined) return "";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

// A word as a shell takes it.
function quoted(word) {
  return /^[\w./=:,@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
