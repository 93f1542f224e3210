// The pages by address: all jobs, one job, several compared.

import { chatPage } from "./chat.js";
import { comparePage } from "./compare.js";
import { formPage } from "./form.js";
import { jobPage } from "./job.js";
import { listPage } from "./list.js";

let leave = () => {};

function open() {
  leave();
  document.querySelectorAll("dialog[open]").forEach((box) => box.close()); // of the view that was left, which would lie over this one
  const [, name, rest] = location.hash.split("/");
  if (name === "job" && rest) leave = jobPage(plain(rest));
  else if (name === "compare" && rest) leave = comparePage(rest.split(",").map(plain));
  else if (name === "chat") leave = chatPage(plain(rest ?? ""));
  else if (name === "train") leave = formPage();
  else leave = listPage();
  for (const link of document.querySelectorAll("nav.main a")) link.toggleAttribute("aria-current", link.hash === `#/${["chat", "train"].includes(name) ? name : ""}`);
}

function plain(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // an address that was cut off: the server says that there is no such job
  }
}

window.addEventListener("hashchange", () => {
  if (location.hash === "#main") return;
  open();
  document.getElementById("main").focus();
});
open();
