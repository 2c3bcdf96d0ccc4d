// Live metrics of the server, while their part of the page is open.

import { byId, drawn, figures } from "./elements.js";
import { get } from "./server_calls.js";

const EVERY = 2000; // milliseconds

export function watchMetrics() {
  const panel = byId("metrics");
  let timer;
  const look = async () => {
    clearTimeout(timer);
    if (!panel.open) return;
    if (document.visibilityState === "visible") await show();
    clearTimeout(timer);
    timer = setTimeout(look, EVERY);
  };
  panel.addEventListener("toggle", look);
  document.addEventListener("visibilitychange", look);
}

async function show() {
  let found;
  try {
    found = await get("/api/metrics");
  } catch (error) {
    note(`No metrics. ${error.message || error.text} (--metrics-target HOST:PORT names another address.)`);
    return;
  }
  note(`From ${found.address}, all callers together; rates and times over the last ${Math.max(1, found.seconds).toFixed(0)} s.`);
  figures("metrics-figures", [
    ["running now", count(found.running)], ["waiting now", count(found.waiting)],
    ["requests per second", rate(found.requests_per_second)], ["tokens per second", rate(found.tokens_per_second)],
    ["rows in a mean step", rate(found.mean_rows_per_step)], ["mean step", milliseconds(found.mean_step_ms)],
    ["mean wait in the queue", milliseconds(found.mean_queue_ms)],
    ["first token, median", milliseconds(found.p50_ttft_ms)], ["first token, p99", milliseconds(found.p99_ttft_ms)],
    ["request, median", milliseconds(found.p50_request_ms)],
    ["requests since start", count(found.requests)], ["tokens since start", count(found.output_tokens)],
  ]);
  byId("metrics-chart").replaceChildren(...chart(found.series));
}

function note(text) {
  if (byId("metrics-note").textContent !== text) byId("metrics-note").textContent = text;
}

function chart(series) {
  if (series.length < 2) return [];
  const most = Math.max(...series, 1);
  const points = series.map((value, at) => `${(at / (series.length - 1)) * 100},${39 - (value / most) * 38}`).join(" ");
  return [drawn("svg", {
    viewBox: "0 0 100 40", preserveAspectRatio: "none", role: "img",
    "aria-label": `Tokens per second, at most ${most.toFixed(0)}, last ${series.at(-1).toFixed(0)}`,
  }, drawn("polyline", { points }))];
}

const count = (value) => value.toLocaleString("en");
const rate = (value) => (value === null ? "–" : value.toFixed(1));
const milliseconds = (value) => (value === null ? "–" : `${value.toFixed(1)} ms`);
