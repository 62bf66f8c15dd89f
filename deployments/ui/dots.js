// Values on one common scale: a dot each, the figure beside it, and the part that a bound rules out.
//
// Dots, not bars: a scale of dots need not begin at zero, and here the differences are the point.

import { el } from "./dom.js";
import { num, percent } from "./format.js";

// rows: [{name, value, kind: "ours"|"bound"|"baseline"}]; excluded: the side the bound rules out.
export function dots(rows, { excluded = "below", format = num } = {}) {
  const values = rows.map((row) => row.value);
  const low = Math.min(...values), high = Math.max(...values);
  const pad = (high - low) * 0.08 || Math.abs(high) * 0.01 || 1;
  const place = (value) => (100 * (value - low + pad)) / (high - low + 2 * pad);
  const bound = rows.find((row) => row.kind === "bound");
  const ours = rows.find((row) => row.kind === "ours");
  return el("ul", { class: "dotplot" }, ...rows.map((row) => {
    const track = el("span", { class: "track", "aria-hidden": "true" });
    if (bound) track.append(shade(place(bound.value), excluded));
    const dot = el("span", { class: `mark ${row.kind}` });
    dot.style.left = `${place(row.value)}%`;
    track.append(dot);
    return el("li", { class: row.kind }, el("span", { class: "who" }, row.name), track,
      el("span", { class: "figure" }, format(row.value)),
      el("span", { class: "against" }, against(row, ours)));
  }));
}

function shade(at, excluded) {
  const node = el("span", { class: "ruled-out" });
  node.style.left = excluded === "below" ? "0" : `${at}%`;
  node.style.width = excluded === "below" ? `${at}%` : `${100 - at}%`;
  return node;
}

function against(row, ours) {
  if (!ours || row === ours || !ours.value) return "";
  const share = (row.value - ours.value) / Math.abs(ours.value);
  if (Math.abs(share) < 5e-5) return "equal";
  return `${share > 0 ? "+" : "−"}${percent(Math.abs(share))}`;
}
