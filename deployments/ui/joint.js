// One plan for the cluster: how long a step takes, what its parts held against each other, and how
// that went over time.

import { axis, Chart } from "./charts.js";
import { byId, el, legend, setHidden, setText } from "./dom.js";
import { num, percent } from "./format.js";

const STEP = { experts: "A step of all experts' layers", jobs: "A step of the jobs", gpus: "A step of a GPU" };

export class JointPanel {
  constructor() {
    this.shown = null;
    legend(byId("joint-legend"), [["line apart", "planners apart"], ["line power", "this plan"], ["line bound", "bound"]]);
    this.chart = new Chart("joint-chart", (color) => ({
      padding: [8, 12, 0, 0],
      scales: { x: { time: true }, y: { range: (_, low, high) => around(low, high) } },
      axes: [
        axis(color, { size: 30, space: 90, values: "{HH}:{mm}:{ss}" }),
        axis(color, { size: 62, values: (_, ticks) => ticks.map((x) => num(x, 4)) }),
      ],
      series: [
        {},
        { stroke: color("bad"), width: 1.5, dash: [9, 4], points: { show: false } },
        { stroke: color("power"), width: 2, points: { show: false } },
        { stroke: color("muted"), width: 1.5, dash: [2, 3], points: { show: false } },
      ],
    }));
  }

  // `plans`: those of the joint planner, newest first.
  update(plan, plans) {
    setHidden(byId("joint"), !plan);
    if (!plan) return;
    const key = `${plan.plan_id}|${plans.length}`;
    if (this.shown === key) return;
    this.shown = key;
    const past = plans.filter((one) => typeof one.objective === "number").reverse();
    this.chart.show([
      past.map((one) => one.created_at), past.map((one) => one.baselines?.apart ?? null),
      past.map((one) => one.objective), past.map((one) => one.lower_bound ?? null),
    ]);
    setText(byId("joint-text"), sentence(plan));
    byId("joint-conflicts").replaceChildren(...conflicts(plan));
  }
}

function sentence(plan) {
  const apart = plan.baselines?.apart;
  const gained = typeof apart === "number" ? 1 - plan.objective / apart : null;
  const against = gained === null ? "" : gained > 5e-5
    ? `; ${percent(gained)} less than with the planners' plans as they were` : "; the planners' plans fit as they were";
  const speed = typeof plan.relative_speed === "number"
    ? `: ${percent(plan.relative_speed, 1)} of full speed, and ${percent(plan.upper_bound, 1)} is the most that is possible` : "";
  return `${STEP[plan.measure] ?? "A step"} takes ${num(plan.objective, 5)} times as long as at full speed and evenly spread${speed}${against}.`;
}

export function conflicts(plan) {
  const items = (plan.conflicts ?? []).map((one) => {
    const step = typeof one.before === "number" && typeof one.after === "number"
      ? ` (step ${num(one.before, 5)} → ${num(one.after, 5)})` : "";
    return el("li", {}, el("b", {}, one.between.join(" and ")), `: ${one.what}. Resolved by: ${one.resolution}${step}.`);
  });
  for (const [part, why] of Object.entries(plan.absent ?? {})) items.push(el("li", {}, el("b", {}, part), `: not planned, ${why}.`));
  return items.length ? items : [el("li", { class: "note" }, "Nothing stood in the way between the planners.")];
}

function around(low, high) {
  if (low === null || high === null) return [1, 1.1];
  const pad = Math.max((high - low) * 0.15, 0.002);
  return [low - pad, high + pad];
}
