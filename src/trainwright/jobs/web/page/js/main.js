// The pages by address: all jobs, one job, several compared.

import { comparePage } from "./compare.js";
import { jobPage } from "./job.js";
import { listPage } from "./list.js";

let leave = () => {};

function open() {
  leave();
  const [, name, rest] = location.hash.split("/");
  if (name === "job" && rest) leave = jobPage(plain(rest));
  else if (name === "compare" && rest) leave = comparePage(rest.split(",").map(plain));
  else leave = listPage();
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
