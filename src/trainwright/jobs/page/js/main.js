// The pages by address: all jobs, one job, several compared.

import { connect } from "./api.js";
import { comparePage } from "./compare.js";
import { jobPage } from "./job.js";
import { listPage } from "./list.js";

let leave = () => {};

function open() {
  leave();
  const [, name, rest] = location.hash.split("/");
  if (name === "job" && rest) leave = jobPage(decodeURIComponent(rest));
  else if (name === "compare" && rest) leave = comparePage(rest.split(",").map(decodeURIComponent));
  else leave = listPage();
}

window.addEventListener("hashchange", () => {
  if (location.hash === "#main") return;
  open();
  document.getElementById("main").focus();
});
connect();
open();
