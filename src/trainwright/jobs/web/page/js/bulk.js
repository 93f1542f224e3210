// What is done with the jobs that are chosen: compared, given tags and notes, stopped, removed.

import { post } from "./api.js";
import { h } from "./dom.js";

const AT_ONCE = 200; // jobs that the server takes in one request
const SAID = 3; // reasons that are told

// `chosen` has for every job's name its status as the list had it last.
export function bulk(chosen, changed) {
  const compare = h("button", { class: "first", onclick: () => (location.hash = `#/compare/${[...chosen.keys()].join(",")}`) }, "Compare");
  const tag = h("button", { onclick: () => labels() }, "Tag");
  const stop = h("button", { onclick: () => sure(`Stop ${some()}?`, `${running()} of them ${running() === 1 ? "runs or waits" : "run or wait"}. A training saves first.`, "Stop", "stop") }, "Stop");
  const remove = h("button", { onclick: () => sure(`Remove ${some()}?`, "Their logs, metrics and folders go; what they wrote elsewhere stays.", "Remove", "remove") }, "Remove");
  const count = h("span", { class: "quiet", role: "status" });
  const element = h("div", { class: "row" }, count, tag, stop, remove, compare);

  function some() {
    return chosen.size === 1 ? "one job" : `${chosen.size} jobs`;
  }

  function running() {
    return [...chosen.values()].filter((status) => status === "RUNNING" || status === "QUEUED").length;
  }

  function update() {
    count.textContent = chosen.size ? `${chosen.size} chosen` : "";
    for (const button of [tag, remove]) button.disabled = !chosen.size;
    stop.disabled = !running();
    stop.title = chosen.size && !running() ? "All of them have ended." : "";
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
    const wanted = [...chosen.keys()];
    const reasons = [];
    const buttons = [...box.querySelectorAll("button.does")];
    buttons.forEach((button) => { button.disabled = true; });
    try {
      for (let at = 0; at < wanted.length; at += AT_ONCE) {
        if (at) said.textContent = `${at} of ${wanted.length} …`;
        const { done, failed } = await post("jobs", { do: what, text, jobs: wanted.slice(at, at + AT_ONCE) });
        if (what === "remove") for (const id of done) chosen.delete(id);
        reasons.push(...Object.values(failed));
      }
      said.textContent = reasons.slice(0, SAID).join(" ") + (reasons.length > SAID ? ` And ${reasons.length - SAID} more.` : "");
      if (!reasons.length) box.close();
    } catch (error) {
      said.textContent = error.message;
    }
    buttons.forEach((button) => { button.disabled = false; });
    changed();
  }

  function sure(title, text, name, what) {
    const opened = dialog(title, h("p", {}, text), h("div", { class: "row" }, h("span", { class: "grow" }),
      h("button", { onclick: () => opened.box.close() }, "Cancel"), h("button", { class: "first does", onclick: () => act(opened, what) }, name)));
  }

  function labels() {
    const word = h("input", { "aria-label": "Tag", placeholder: "A word" });
    const note = h("input", { "aria-label": "Note", placeholder: "What is to be remembered" });
    const opened = dialog(`Tag and note of ${some()}`,
      h("div", { class: "row" }, word, h("button", { class: "does", onclick: () => act(opened, "tag", word.value) }, "Add tag"), h("button", { class: "does", onclick: () => act(opened, "untag", word.value) }, "Take tag away")),
      h("div", { class: "row" }, note, h("button", { class: "does", onclick: () => act(opened, "note", note.value) }, "Keep note")),
      h("div", { class: "row" }, h("span", { class: "grow" }), h("button", { onclick: () => opened.box.close() }, "Close")));
    word.focus();
  }
  update();
  return { element, update };
}
