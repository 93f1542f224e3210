// The processes of a job on several: rank by rank where it is, how it is, how far and how fast, and what it printed.

import { amount, h } from "./dom.js";

const LOOKS = { training: "RUNNING", stuck: "FAILED", suspended: "QUEUED", killed: "LOST", unknown: "STOPPED" };
const LOGS = { "stdout.log": "output", "stderr.log": "errors" };
const FEW = 16; // processes that are all shown; of more those that are not well, and the others where one asks

export function ranksCard(ranks, openLog) {
  if (!ranks.length) return "";
  const wells = ranks.filter(isWell);
  const shown = ranks.length > FEW ? ranks.filter((one) => !isWell(one)) : ranks;
  const folded = ranks.length > FEW ? wells : [];
  return h("section", { class: "card processes", "aria-label": "Processes" }, h("h2", {}, summary(ranks)),
    shown.length > 0 && table(shown, openLog),
    folded.length > 0 && h("details", { class: "more" }, h("summary", {}, `${folded.length} that ${folded.length === 1 ? "is" : "are"} well`), table(folded, openLog)));
}

function isWell(one) {
  return one.state === "training" || one.state === "COMPLETE";
}

// Of each state how many processes there are: "4 processes: 3 training, 1 killed".
function summary(ranks) {
  const counts = new Map();
  for (const one of ranks) counts.set(word(one.state), (counts.get(word(one.state)) ?? 0) + 1);
  return `${ranks.length} processes: ${[...counts].map(([state, count]) => `${count} ${state}`).join(", ")}`;
}

function word(state) {
  return state.toLowerCase();
}

function table(ranks, openLog) {
  const heads = ["rank", "machine", "process", "state", "step", "rows/s", "log"];
  return h("table", { class: "ranks" },
    h("thead", {}, h("tr", {}, heads.map((name) => h("th", { class: ["step", "rows/s"].includes(name) ? "number" : null }, name)))),
    h("tbody", {}, ranks.map((one) => row(one, openLog))));
}

function row(one, openLog) {
  const cell = (name, attributes, ...content) => h("td", { "data-label": name, ...attributes }, ...content);
  const number = { class: "number" };
  return h("tr", {},
    cell("rank", {}, String(one.rank)),
    cell("machine", { class: "text" }, one.host),
    cell("process", {}, String(one.pid)),
    cell("state", { class: "text" }, h("div", {}, h("span", { class: `status ${LOOKS[one.state] ?? one.state}` }, word(one.state)),
      one.how && h("div", { class: "quiet how" }, one.how),
      one.before && h("div", { class: "quiet how" }, `before: ${one.before}`))),
    cell("step", number, one.step === null ? "" : String(one.step)),
    cell("rows/s", number, one.rows_per_second === null ? "" : amount(one.rows_per_second)),
    cell("log", {}, one.logs.length > 0 && h("span", { class: "logs" }, one.logs.map((path) => path.split("/").pop()).map((name) => h("button", { class: "plain link", "aria-label": `${LOGS[name]} of rank ${one.rank}`, onclick: () => openLog(one.rank, name) }, LOGS[name])))));
}
