// Where a job's time went: a bar of its parts, one for each attempt where there were several, and their seconds.

import { h, span } from "./dom.js";

const PARTS = {
  training: "training", data: "waiting for data", exchanging: "waiting for other ranks", again: "steps done again", evaluating: "evaluating", saving: "waiting for saves", starting: "starting", other: "besides", between: "between attempts",
};
const LEAST = 0.05; // seconds that are worth a line
const MOST = 8; // attempts

export function timeCard(time) {
  if (!time) return "";
  const shown = Object.keys(PARTS).filter((part) => time.seconds[part] >= LEAST);
  const attempts = time.attempts.slice(-MOST);
  const several = time.attempts.length > 1;
  return h("section", { class: "card" }, h("h2", {}, "Where the time went"), bar(time.seconds, shown),
    h("dl", { class: "parts" }, shown.map((part) => h("div", {},
      h("dt", {}, h("span", { class: `swatch ${part}` }), PARTS[part]),
      h("dd", { class: "figure" }, brief(time.seconds[part]), h("span", { class: "quiet" }, ` ${share(time.seconds[part], time.total)}`))))),
    several && h("p", { class: "quiet" }, `${time.attempts.length} attempts; ${time.again} ${time.again === 1 ? "step was" : "steps were"} done again.`),
    several && h("dl", { class: "parts" }, attempts.map((one, place) => h("div", {},
      h("dt", {}, `${time.attempts.length - attempts.length + place + 1}: steps ${one.first_step}–${one.step}`),
      h("dd", { class: "grow" }, bar(one.seconds, shown))))));
}

function bar(seconds, parts) {
  const words = parts.map((part) => `${PARTS[part]} ${brief(seconds[part])}`).join(", ");
  return h("div", { class: "spent", role: "img", "aria-label": words, title: words }, parts.map((part) => {
    const piece = h("span", { class: part });
    piece.style.flexGrow = seconds[part];
    return piece;
  }));
}

function brief(seconds) {
  return seconds < 10 ? `${seconds.toFixed(1)} s` : span(seconds);
}

function share(seconds, total) {
  const percent = (100 * seconds) / total;
  return percent < 1 ? "< 1 %" : `${Math.round(percent)} %`;
}
