// What is done with the jobs that are chosen: compared, given tags and notes, stopped, removed.

import { post } from "./api.js";
import { h } from "./dom.js";

export function bulk(chosen, changed) {
  const compare = h("button", { class: "first", onclick: () => (location.hash = `#/compare/${[...chosen].join(",")}`) }, "Compare");
  const tag = h("button", { onclick: () => labels() }, "Tag");
  const stop = h("button", { onclick: () => sure(`Stop ${some()}?`, "A training saves first.", "Stop", "stop") }, "Stop");
  const remove = h("button", { onclick: () => sure(`Remove ${some()}?`, "Their logs, metrics and folders go; what they wrote elsewhere stays.", "Remove", "remove") }, "Remove");
  const count = h("span", { class: "quiet", role: "status" });
  const element = h("div", { class: "row" }, count, tag, stop, remove, compare);

  function some() {
    return chosen.size === 1 ? "one job" : `${chosen.size} jobs`;
  }

  function update() {
    count.textContent = chosen.size ? `${chosen.size} chosen` : "";
    for (const button of [tag, stop, remove]) button.disabled = !chosen.size;
    compare.disabled = chosen.size < 2;
  }

  function dialog(title, ...content) {
    const said = h("p", { class: "wrong", role: "alert" });
    const box = h("dialog", { "aria-label": title }, h("h2", {}, title), ...content, said);
    box.addEventListener("close", () => box.remove());
    document.body.append(box);
    box.showModal();
    return { box, said };
  }

  async function act({ box, said }, what, text = "") {
    try {
      const { done, failed } = await post("jobs", { do: what, text, jobs: [...chosen].slice(0, 200) });
      if (what === "remove") for (const id of done) chosen.delete(id);
      said.textContent = Object.values(failed).join(" ");
      if (!said.textContent) box.close();
    } catch (error) {
      said.textContent = error.message;
    }
    changed();
  }

  function sure(title, text, name, what) {
    const opened = dialog(title, h("p", {}, text), h("div", { class: "row" }, h("span", { class: "grow" }),
      h("button", { onclick: () => opened.box.close() }, "Cancel"), h("button", { class: "first", onclick: () => act(opened, what) }, name)));
  }

  function labels() {
    const word = h("input", { "aria-label": "Tag", placeholder: "A word" });
    const note = h("input", { "aria-label": "Note", placeholder: "What is to be remembered" });
    const opened = dialog(`Tag and note of ${some()}`,
      h("div", { class: "row" }, word, h("button", { onclick: () => act(opened, "tag", word.value) }, "Add tag"), h("button", { onclick: () => act(opened, "untag", word.value) }, "Take tag away")),
      h("div", { class: "row" }, note, h("button", { onclick: () => act(opened, "note", note.value) }, "Keep note")),
      h("div", { class: "row" }, h("span", { class: "grow" }), h("button", { onclick: () => opened.box.close() }, "Close")));
    word.focus();
  }
  update();
  return { element, update };
}
