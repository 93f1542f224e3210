// One job: how it is, its curves, parameters, where its time went, what its model wrote, checkpoints, log and error.

import { get, post, query, watch } from "./api.js";
import { About } from "./about.js";
import { askAgain } from "./again.js";
import { Board } from "./board.js";
import { completionsCard } from "./completions.js";
import { failure, h, pairs, show, status, times } from "./dom.js";
import { Made } from "./made.js";
import { ranksCard } from "./ranks.js";
import { timeCard } from "./time.js";

const LOOK = 1500; // milliseconds at least between two looks
const LONGEST_LOG = 40; // parts of at most 64 KiB
const RESUMABLE = ["FAILED", "STOPPED", "INTERRUPTED", "LOST"];

export function jobPage(id) {
  const path = `jobs/${encodeURIComponent(id)}`;
  const parts = Object.fromEntries(["head", "refused", "problem", "empty", "figures", "time", "ranks"].map((name) => [name, h("div")]));
  parts.passed = h("span", { class: "quiet" });
  const log = h("pre", { tabindex: 0, "aria-label": "Log" });
  const logHead = h("div", { class: "row" }, h("h2", {}, "Log"));
  const logCard = h("section", { class: "card" }, logHead, log);
  const about = new About();
  const made = new Made();
  const written = completionsCard(path);
  let job = null;
  let board = null;
  let logEnd = -1;
  let logSeen = 0; // bytes that it had
  let logOf = {}; // of the job; or of one of its processes: rank and file
  let latest = null; // how the job is by now
  let open = true;
  let timer = null;
  let looking = null; // one look at a time, or what is printed meanwhile would stand there twice
  show(h("p", { class: "quiet" }, "Loading the job…"));

  function look() {
    looking = (looking ?? Promise.resolve()).then(lookOnce);
    return looking;
  }

  async function lookOnce() {
    if (!open) return;
    clearTimeout(timer);
    timer = null;
    try {
      const first = job === null;
      job = await get(path);
      if (!open) return;
      if (job.id !== id) return location.replace(`#/job/${encodeURIComponent(job.id)}`); // the beginning of its name
      board ??= new Board([job]);
      if (first) {
        document.title = `${job.name} · Trainwright`;
        show(parts.head, parts.refused, parts.problem, h("div", { class: "columns" },
          h("div", {}, parts.empty, parts.ranks, board.element, made.element, written.element, logCard),
          h("div", {}, parts.time, about.params, parts.figures, about.rest)));
      }
      draw();
      await Promise.all([drawCharts(), readLog()]);
      due();
    } catch (error) {
      if (!open) return;
      if (job === null) show(failure(error.message, look));
      timer ??= setTimeout(look, LOOK);
    }
  }

  function act(action, body) {
    return async (event) => {
      event.target.disabled = true;
      parts.refused.replaceChildren();
      try {
        await post(`${path}/${action}`, body);
        await look();
      } catch (error) {
        parts.refused.replaceChildren(failure(error.message)); // it stays to be read, until the next one
        event.target.disabled = false;
      }
    };
  }

  function draw() {
    const running = job.status === "RUNNING" || job.status === "QUEUED";
    const busy = document.activeElement?.closest("[data-actions]");
    if (!busy || busy.dataset.status !== job.status + job.stop_requested) {
      parts.actions = h("span", { class: "row", "data-actions": "", "data-status": job.status + job.stop_requested },
        running && h("button", { onclick: act("stop"), disabled: job.stop_requested !== null }, "Stop"),
        RESUMABLE.includes(job.status) && h("button", { class: "first", onclick: act("resume") }, "Resume"),
        job.talks && h("a", { class: "button", href: `#/chat/${encodeURIComponent(job.id)}` }, "Chat"),
        job.command.length > 1 && h("button", { onclick: () => askAgain(job) }, "Start again…"));
    }
    const focused = busy ? document.activeElement : null;
    parts.head.replaceChildren(
      h("div", { class: "row" }, h("h1", {}, job.name, " ", h("span", { class: "quiet" }, job.id)), status(job), h("span", { class: "grow" }), parts.actions),
      h("div", { class: "row" }, h("progress", { class: "grow", max: 100, value: job.progress, "aria-label": "Progress" }),
        parts.passed));
    drawPassed();
    focused?.focus();
    if (job.status === "FAILED" || (job.message && job.status !== "STOPPED")) {
      parts.problem.replaceChildren(h("section", { class: "card error", role: "alert" }, h("p", {}, job.message ?? job.status),
        job.traceback && h("details", {}, h("summary", {}, "Where"), h("pre", {}, job.traceback))));
    } else {
      parts.problem.replaceChildren();
    }
    about.update(job);
    parts.time.replaceChildren(timeCard(job.time));
    drawRanks();
    made.update(job);
    written.update(job.completions);
  }

  function drawRanks() {
    const text = JSON.stringify(job.ranks);
    if (text === parts.ranks.dataset.seen) return; // somebody may have unfolded it, or be at one of its buttons
    parts.ranks.dataset.seen = text;
    parts.ranks.replaceChildren(ranksCard(job.ranks, openLog));
  }

  function openLog(rank, name) {
    const isOfJob = rank === undefined;
    [logOf, logEnd, logSeen] = [isOfJob ? {} : { rank, name }, -1, 0];
    log.replaceChildren();
    logHead.replaceChildren(h("h2", {}, isOfJob ? "Log" : `Log of rank ${rank}, ${name}`), h("span", { class: "grow" }),
      isOfJob ? "" : h("button", { onclick: () => openLog() }, "Log of the job"));
    look();
    logCard.scrollIntoView({ block: "nearest" });
  }

  function drawPassed() {
    const { passed, left } = times(job);
    const steps = job.total_steps ? `step ${job.step} of ${job.total_steps}` : "";
    parts.passed.textContent = [`${Math.round(job.progress)} %`, steps, passed, left && `${left} left`].filter(Boolean).join(" · ");
  }

  async function drawCharts() {
    const names = Object.entries(job.metric_names);
    const curves = names.filter(([, count]) => count > 1 || job.status === "RUNNING").map(([name]) => name);
    const single = names.filter(([name]) => !curves.includes(name) && !name.startsWith("system/")).map(([name]) => name);
    board.element.hidden = !curves.length;
    const why = job.status === "QUEUED" ? "The job waits for a worker: trainwright jobs worker" : "No metrics yet.";
    parts.empty.replaceChildren(names.length ? "" : h("div", { class: "card empty" }, h("p", { class: "quiet" }, why)));
    parts.figures.replaceChildren(single.length ? h("section", { class: "card" }, h("h2", {}, "Figures"),
      pairs(single.map((name) => [name, job.last[name]?.[1]]))) : "");
    await board.update(curves, job.attempts_before, job.metric_versions, job.flat);
  }

  async function readLog() {
    const size = latest?.log ?? 0;
    const of = logOf;
    const found = await get(`${path}/log?${new URLSearchParams({ after: logEnd, ...of })}`);
    if (of !== logOf) return; // another one was chosen meanwhile
    if (!found.there) {
      log.textContent = found.why;
      return;
    }
    const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 30;
    if (logEnd <= 0) log.textContent = "";
    if (found.text) log.append(found.text);
    else if (!found.end) log.textContent = "Nothing was printed yet.";
    while (log.childNodes.length > LONGEST_LOG) log.firstChild.remove();
    logEnd = found.end;
    logSeen = found.text && (logEnd < size || logOf.name) ? 0 : size; // at most 64 KiB come at once
    if (atEnd) log.scrollTop = log.scrollHeight;
  }

  // The next look, where more has happened than was seen.
  function due() {
    const isNew = latest && job && (latest.changed > job.changed || latest.log !== logSeen || String(latest.gone) !== String(job.gone));
    if (isNew) timer ??= setTimeout(look, LOOK);
  }

  let known = "";
  const stopWatching = watch(query("job", [id]), ({ jobs: [mine] }) => {
    if (known && !mine) {
      open = false;
      clearTimeout(timer);
      parts.problem.replaceChildren(failure("This job is not there any more: it was removed."));
      return;
    }
    const now = mine ? `${mine.status} ${mine.stop_requested}` : "";
    latest = mine;
    if (known && now !== known) look();
    else due();
    known = now;
  });
  const clock = setInterval(() => job?.ended === null && open && drawPassed(), 1000);
  look();
  return () => {
    open = false;
    clearTimeout(timer);
    clearInterval(clock);
    stopWatching();
    board?.close();
  };
}
