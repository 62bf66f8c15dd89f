// GPUs and links as tables: what the graph shows, for keyboards, screen readers and searching.

import { byId, el, setText } from "./dom.js";
import { num, percent } from "./format.js";
import { isDown } from "./state.js";

const MOST_ROWS = 600;

function fill(table, rows) {
  const body = table.tBodies[0];
  while (body.rows.length > rows.length) body.lastElementChild.remove();
  rows.forEach((texts, i) => {
    if (!body.rows[i]) {
      body.append(el("tr", {}, el("th", { scope: "row" }), ...texts.slice(1).map(() => el("td"))));
    }
    texts.forEach((text, k) => setText(body.rows[i].cells[k], text));
    body.rows[i].classList.toggle("off", texts[1] === "dead" || texts[1] === "down");
  });
}

export function updateTables(state) {
  if (!byId("gpu-details").open || !state.snapshot) return;
  const { gpus = [], alive = [], power_w: power = [], utilization = [], links = [] } = state.snapshot;
  const [energy, nvlink] = [state.part("energy"), state.part("nvlink")];
  const cap = new Map((energy?.gpus ?? []).map((gpu, i) => [gpu, energy.caps_w?.[i]]));
  const job = new Map();
  for (const [name, members] of Object.entries(nvlink?.assignment ?? {})) {
    if (Array.isArray(members)) for (const gpu of members) job.set(gpu, name);
  }
  fill(byId("gpu-table"), gpus.slice(0, MOST_ROWS).map((gpu, i) => [
    gpu, alive[i] === false ? "dead" : "alive", watt(power[i]), watt(cap.get(gpu)), percent(utilization[i], 0), job.get(gpu) ?? "–",
  ]));
  const worst = links.filter(isDown).concat(
    links.filter((link) => !isDown(link)).sort((a, b) => (b.load ?? -1) - (a.load ?? -1)));
  fill(byId("link-table"), worst.slice(0, MOST_ROWS).map((link) => [
    link.id, isDown(link) ? "down" : link.up === true ? "up" : "not known", percent(link.load, 0), num(link.bandwidth_gb_s),
  ]));
}

const watt = (x) => (typeof x === "number" ? `${Math.round(x)} W` : "–");
