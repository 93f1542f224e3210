// What a model wrote in reinforcement learning: the completions of a prompt side by side, with what each earned.

import { get } from "./api.js";
import { h, number } from "./dom.js";

// A card that shows the file which is chosen; `update` hears of the files that there are, the newest last.
export function completionsCard(path) {
  const element = h("div");
  const body = h("div", { class: "scroll" });
  const choice = h("select", { "aria-label": "Generation", onchange: load });
  let names = "";

  async function load() {
    const found = await get(`${path}/completions?name=${encodeURIComponent(choice.value)}`);
    body.replaceChildren(...found.map(group));
  }

  function update(files) {
    const now = files.map((one) => one.name).join();
    if (!files.length || now === names) return;
    const newest = !names || choice.selectedIndex === choice.options.length - 1; // what is chosen by hand stays
    const chosen = choice.value;
    names = now;
    choice.replaceChildren(...files.map((one) => h("option", { value: one.name }, `${one.held_out ? "held out, " : ""}after step ${one.step}`)));
    choice.value = newest || !files.some((one) => one.name === chosen) ? files.at(-1).name : chosen;
    if (!element.firstChild) element.append(h("section", { class: "card" }, h("div", { class: "row" }, h("h2", {}, "Completions and rewards"), choice), body));
    if (choice.value !== chosen) load();
  }

  return { element, update };
}

function group(one) {
  return h("table", {}, h("caption", { class: "text" }, `row ${one.row}: ${one.prompt}`),
    h("thead", {}, h("tr", {}, ["Advantage", "Reward", "Tokens", "Written"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, one.completions.map((row) => h("tr", {},
      h("td", { class: "figure" }, number(row.advantage)),
      h("td", { class: "figure", title: Object.entries(row.rewards).map(([name, value]) => `${name} ${number(value)}`).join("\n") }, number(row.reward)),
      h("td", { class: "figure" }, `${row.tokens}${row.finished ? "" : ", cut off"}`),
      h("td", { class: `text ${row.advantage > 0 ? "right" : row.advantage < 0 ? "wrong" : ""}` }, row.text)))));
}
