// A conversation with one trained model, or with two side by side: checkpoints, and what they were trained from.

import { get } from "./api.js";
import { failure, h, show } from "./dom.js";

export function chatPage(wanted) {
  document.title = "Chat · Trainwright";
  let open = true;
  let choices = [];
  let answering = null; // how the answer that is written now is stopped
  const columns = h("div", { class: "talks" });
  const problem = h("div");
  const first = h("select", { "aria-label": "Model", onchange: restart });
  const second = h("select", { "aria-label": "Beside it", onchange: restart });
  const system = h("input", { "aria-label": "System prompt", placeholder: "none", onchange: () => ask({ system: system.value }) });
  const temperature = h("input", { type: "number", "aria-label": "Temperature", min: 0, max: 2, step: 0.1, value: 0.7, onchange: restart });
  const tokens = h("input", { type: "number", "aria-label": "Tokens at most", min: 1, max: 4096, value: 256, onchange: restart });
  const text = h("textarea", { rows: 2, "aria-label": "Message", placeholder: "Say something; Enter sends it, Shift and Enter begin a line.", onkeydown: typed });
  const send = h("button", { class: "first", onclick: say }, "Send");
  const stop = h("button", { hidden: true, onclick: () => answering?.abort() }, "Stop");
  const others = [["Answer again", { again: true }], ["Undo", { undo: true }], ["Forget all", { reset: true }]].map(([name, words]) => h("button", { onclick: () => ask(words) }, name));
  const state = h("span", { class: "quiet", role: "status" });
  show(h("div", { class: "row" }, h("h1", {}, "Chat"), state), problem, h("p", { class: "quiet" }, "Looking for models…"));
  begin();

  async function begin() {
    try {
      const found = await get("models");
      if (!open) return;
      choices = found.jobs.flatMap((job) => job.models.map((model) => ({ job: job.job, which: model.which, text: `${job.name} ${job.job}: ${model.text}` })));
      if (!choices.length) return show(h("h1", {}, "Chat"), h("div", { class: "card empty" }, h("p", {}, "No job on this machine has a model yet."), h("p", { class: "quiet" }, "Train one from a YAML file; its checkpoints can be talked with here.")));
      const option = (one, place) => h("option", { value: place }, one.text);
      first.replaceChildren(...choices.map(option));
      second.replaceChildren(h("option", { value: "" }, "nothing"), ...choices.map(option));
      const mine = Math.max(choices.findIndex((one) => one.job === wanted), 0);
      first.value = mine;
      second.value = choices.findIndex((one) => one.job === choices[mine].job && one.which === "base");
      show(h("div", { class: "row" }, h("h1", {}, "Chat"), state), problem,
        h("div", { class: "card" }, h("div", { class: "asking" }, h("label", {}, "Model", first), h("label", {}, "Beside it", second), h("label", {}, "System prompt", system), h("label", {}, "Temperature", temperature), h("label", {}, "Tokens at most", tokens))),
        columns, h("div", { class: "card say" }, text, h("div", { class: "row" }, send, stop, ...others)));
      restart();
      text.focus();
    } catch (error) {
      if (open) show(h("h1", {}, "Chat"), failure(error.message, begin));
    }
  }

  function models() {
    return [first, second].filter((one) => one.value !== "").map((one) => choices[one.value]);
  }

  // Other models, or others of their settings, know nothing of what was said.
  function restart() {
    answering?.abort();
    columns.replaceChildren(...models().map((one) => h("section", { class: "card talk", "aria-label": one.text }, h("h2", {}, one.text), h("div", { class: "turns" }))));
    columns.classList.toggle("two", models().length > 1);
    fresh = true;
  }
  let fresh = true;

  function typed(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    say();
  }

  function say() {
    const words = text.value.trim();
    if (!words || answering) return;
    text.value = "";
    ask({ say: words });
  }

  async function ask(words) {
    if (answering || (fresh && !words.say)) return;
    answering = new AbortController();
    const asked = { ...words, ...(fresh && { reset: true, system: system.value }) };
    fresh = false;
    problem.replaceChildren();
    busy(true);
    if (words.say) add("user", words.say);
    else if (words.undo) turns().forEach(undo);
    else if (words.again) turns().forEach((one) => one.lastChild?.classList.contains("assistant") && one.lastChild.remove());
    else if (words.reset) turns().forEach((one) => one.replaceChildren());
    const answers = words.say || words.again ? add("assistant", "") : [];
    try {
      await read(asked, answers, answering.signal);
    } catch (error) {
      if (error.name !== "AbortError") problem.replaceChildren(failure(error.message));
    }
    answering = null;
    if (open) busy(false);
  }

  async function read(asked, answers, signal) {
    state.textContent = "Loading the models…";
    const body = JSON.stringify({ models: models(), ask: asked, temperature: Number(temperature.value), max_new_tokens: Number(tokens.value) });
    const response = await fetch("api/chat", { method: "POST", headers: { "content-type": "application/json" }, body, signal });
    if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error ?? `The server answered ${response.status}.`);
    state.textContent = "Writing…";
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      const lines = (rest + part.value).split("\n");
      rest = lines.pop();
      lines.map((line) => JSON.parse(line)).forEach((told) => take(told, answers));
    }
  }

  function take(told, answers) {
    if (told.piece !== undefined) answers[told.model].textContent += told.piece;
    if (told.error) (answers[told.model] ?? problem).append(h("span", { class: "wrong" }, told.error));
  }

  function turns() {
    return [...columns.querySelectorAll(".turns")];
  }

  function undo(one) {
    while (one.lastChild?.classList.contains("assistant")) one.lastChild.remove();
    one.lastChild?.remove();
  }

  function add(role, words) {
    return turns().map((one) => {
      const turn = h("p", { class: `turn ${role}` }, words);
      one.append(turn);
      turn.scrollIntoView({ block: "nearest" });
      return turn;
    });
  }

  function busy(is) {
    stop.hidden = !is;
    [send, ...others].forEach((one) => { one.disabled = is; });
    if (!is) state.textContent = "";
  }

  return () => { open = false; answering?.abort(); };
}
