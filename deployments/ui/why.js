// Why this plan: ours against the baselines and the bound, what was fallen back from, from what data.

import { byId, el } from "./dom.js";
import { dots } from "./dots.js";
import { conflicts } from "./joint.js";
import { clock, duration, list, NONE, num, percent, plural, signed, sum, watts } from "./format.js";

let shown = "";

export function showWhy(plan, state) {
  const key = plan ? JSON.stringify([plan.plan_id, state, plan.alarm, plan.takenAt !== undefined]) : "";
  if (key === shown) return;
  shown = key;
  const body = byId("why-body");
  if (!plan) {
    body.replaceChildren(el("p", { class: "note" }, "Choose a plan in the table."));
    return;
  }
  body.replaceChildren(
    el("p", { class: "lead" }, el("b", {}, plan.planner), ` ${headline(plan)}`),
    state === "current" ? "" : el("p", { class: `state ${state.replace(" ", "-")}` }, stateText(state)),
    plan.alarm ? el("p", { class: "state stale" }, `Alarm: ${plan.alarm}`) : "",
    ...fallback(plan), comparison(plan), ...standing(plan), facts(plan), ...warnings(plan),
  );
}

function headline(plan) {
  if (typeof plan.lower_bound !== "number") {
    return `has objective ${num(plan.objective, 6)}; no bound: ${plan.reasons?.lower_bound ?? "no reason given"}.`;
  }
  if (plan.gap === 0) return `has objective ${num(plan.objective, 6)}, which is proven optimal.`;
  return `has objective ${num(plan.objective, 6)}; nothing below ${num(plan.lower_bound, 6)} exists, so at most ${percent(plan.gap)} is left to gain.`;
}

function stateText(state) {
  return {
    stale: "Stale: the planner could not make a newer safe plan. This is the last one that passed its checks.",
    expired: "Expired: its time is over and no newer plan has come.",
    replaced: "Replaced: a newer plan of this planner exists.",
    "last known": "Last known: the page is not connected, a newer plan may exist.",
  }[state] ?? state;
}

function fallback(plan) {
  const { requested, used, fallback_reason: reason } = plan.solver ?? {};
  if (!used) return [];
  const text = reason ? `Asked for ${requested}; ${used} answered, because ${reason}.`
    : requested === used ? `Solved by ${used}, as asked.` : `Solved by ${used} (asked: ${requested}).`;
  return [el("p", { class: reason ? "state fallback" : "note" }, text)];
}

function comparison(plan) {
  const rows = Object.entries(plan.baselines ?? {})
    .filter(([, value]) => typeof value === "number")
    .sort((a, b) => b[1] - a[1])
    .map(([name, value]) => ({ name, value, kind: "baseline" }));
  if (typeof plan.objective === "number") rows.push({ name: "this plan", value: plan.objective, kind: "ours" });
  if (typeof plan.lower_bound === "number") rows.push({ name: "bound", value: plan.lower_bound, kind: "bound" });
  const title = el("h3", {}, "Objective, lower is better");
  if (rows.length < 2) return el("div", {}, title, el("p", { class: "note" }, "Neither baseline nor bound to compare with."));
  return el("div", {}, title, dots(rows, { format: (x) => num(x, 6) }));
}

// Of a joint plan: what its parts held against each other.
function standing(plan) {
  if (!plan.conflicts) return [];
  return [el("h3", {}, "Between the planners"), el("ul", { class: "plain" }, ...conflicts(plan))];
}

function facts(plan) {
  const telemetry = plan.telemetry ?? {};
  const gain = typeof plan.quantum_gain === "number" ? signed(plan.quantum_gain)
    : `none: ${plan.reasons?.quantum_gain ?? "no reason given"}`;
  const config = Object.entries(plan.config ?? {}).filter(([, v]) => v !== null && typeof v !== "object")
    .map(([name, value]) => `${name} ${value}`);
  const rows = [
    ...own(plan),
    ["Quantum gain", gain],
    ["Telemetry", `snapshot ${telemetry.snapshot_hash || NONE}, ${duration(telemetry.age_s)} old when planned${telemetry.simulated ? ", simulated" : ""}`],
    ["Made", `${clock(plan.created_at)} in ${duration(plan.wall_s)}${plan.expires_at ? `, good until ${clock(plan.expires_at)}` : ""}`],
    ...(config.length ? [["Configuration", config.join(", ")]] : []),
    ...(plan.seed === undefined ? [] : [["Seed", String(plan.seed)]]),
    ["Plan", plan.plan_id],
  ];
  return el("dl", { class: "facts" }, ...rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

function own(plan) {
  const rows = [];
  if (typeof plan.relative_speed === "number") {
    rows.push(["Speed", `${percent(plan.relative_speed, 1)} of full speed, at most ${percent(plan.upper_bound, 1)} is possible`]);
    const made = plan.made_here?.length ? `${list(plan.made_here)} made or changed for the whole` : "all parts are the planners' own";
    rows.push(["Parts", made]);
  }
  if (typeof plan.balancedness === "number") {
    const before = typeof plan.balancedness_before === "number" ? `, ${num(plan.balancedness_before)} before` : "";
    rows.push(["Balancedness", `${num(plan.balancedness)} of at most ${num(plan.upper_bound)}${before}`]);
  }
  if (typeof plan.moved_slots === "number") {
    const note = plan.kept ? "; the plan in force stays" : plan.switched ? "; the load has switched domain" : "";
    rows.push(["Moved", plural(plan.moved_slots, "expert slot") + note]);
  }
  if (typeof plan.budget_w === "number") {
    const caps = plan.caps_w ? `caps of ${watts(sum(plan.caps_w))}, ` : "";
    const predicted = plan.predicted_w ? `; predicted draw ${watts(plan.predicted_w)} (median) to ${watts(plan.most_w)} (95 %)` : "";
    rows.push(["Power", `${caps}budget of ${watts(plan.budget_w)} with hosts${predicted}`]);
  }
  for (const [job, gpus] of Object.entries(plan.assignment ?? {}).slice(0, 8)) {
    if (Array.isArray(gpus)) rows.push([`Job ${job}`, `${plural(gpus.length, "GPU")}: ${list(gpus, 8)}`]);
  }
  for (const [job, reason] of Object.entries(plan.unplaced ?? {}).slice(0, 8)) rows.push([`Job ${job}`, `does not run: ${reason}`]);
  return rows;
}

function warnings(plan) {
  if (!plan.warnings?.length) return [];
  return [el("h3", {}, "Warnings"), el("ul", { class: "warnings" }, ...plan.warnings.map((text) => el("li", {}, text)))];
}
