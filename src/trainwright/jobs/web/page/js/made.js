// What a job's model wrote and drew: answers to the same questions as training went on, pictures and films.

import { h } from "./dom.js";

export class Made {
  constructor() {
    this.samples = h("div");
    this.media = h("div");
    this.element = h("div", {}, this.samples, this.media);
    this.seen = {};
  }

  update(job) {
    this.once("samples", job.samples, () => this.drawSamples(job.samples));
    this.once("media", job.media, () => this.drawMedia(job));
  }

  // What has changed is drawn anew, and nothing else: somebody may be choosing in it.
  once(name, found, draw) {
    const text = JSON.stringify(found);
    if (text === (this.seen[name] ?? "[]")) return;
    this.seen[name] = text;
    draw();
  }

  drawSamples(samples) {
    const body = h("tbody");
    const head = h("tr");
    const questions = [...new Set(samples.flatMap((one) => one.rows.map((row) => row.input)))].slice(0, 20);
    const choice = h("select", { "aria-label": "Step", onchange: (event) => draw(event.target.value) },
      h("optgroup", { label: "All of a step" }, samples.map((one, place) => h("option", { value: `step ${place}` }, `step ${one.step}`))),
      samples.length > 1 && h("optgroup", { label: "One over time" }, questions.map((one, place) => h("option", { value: `question ${place}` }, String(one).slice(0, 60)))));
    const cell = (text, kind = "") => h("td", { class: `text ${kind}` }, typeof text === "object" && text !== null ? JSON.stringify(text) : text);
    const written = (row) => cell(row.generated, row.correct ? "right" : "wrong");

    function draw(wanted) {
      const [kind, place] = wanted.split(" ");
      head.replaceChildren(...[kind === "step" ? "Given" : "Step", "Written", "Expected"].map((name) => h("th", { scope: "col" }, name)));
      const rows = kind === "step" ? samples[place].rows.map((row) => [cell(row.input), row])
        : samples.flatMap((one) => one.rows.filter((row) => row.input === questions[place]).map((row) => [cell(`step ${one.step}`), row]));
      body.replaceChildren(...rows.map(([first, row]) => h("tr", {}, first, written(row), cell(row.reference))));
    }

    choice.value = `step ${samples.length - 1}`;
    draw(choice.value);
    this.samples.replaceChildren(h("section", { class: "card" }, h("div", { class: "row" }, h("h2", {}, "What the model wrote"), choice),
      h("div", { class: "scroll" }, h("table", {}, h("thead", {}, head), body))));
  }

  drawMedia(job) {
    const address = ({ name, time }) => `api/jobs/${encodeURIComponent(job.id)}/media/${name.split("/").map(encodeURIComponent).join("/")}?t=${time}`;
    this.media.replaceChildren(h("section", { class: "card" }, h("h2", {}, "Pictures"), h("div", { class: "media" },
      job.media.map((one) => h("figure", {}, h("a", { href: address(one) }, h("img", { src: address(one), alt: one.name, loading: "lazy" })), h("figcaption", {}, one.name))))));
  }
}
