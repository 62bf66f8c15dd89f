// Wires it together: reads once, then follows the stream, and says how old everything is.

import { LoadChart, PowerChart } from "./charts.js";
import { byId, el, setHidden, setText } from "./dom.js";
import { Fabric } from "./fabric.js";
import { age, clock, NONE, plural, watts } from "./format.js";
import { JointPanel } from "./joint.js";
import { PlanTable } from "./plans.js";
import { isDown, PLANNERS, powerOf, State } from "./state.js";
import { Stream } from "./stream.js";
import { updateTables } from "./tables.js";
import { showWhy } from "./why.js";

const TOKEN = "qcluster-token";
const LINK_TEXT = { connecting: "Connecting", live: "Live", silent: "Silent", cut: "Disconnected", denied: "Token needed" };

const state = new State();
const fabric = new Fabric();
const power = new PowerChart();
const load = new LoadChart();
const joint = new JointPanel();
const table = new PlanTable(state, (plan) => showWhy(plan, plan ? state.planState(plan, isLive()) : ""));
let frame = 0;
let dirty = new Set();
let hasRead = false;

const stream = new Stream("/v1/telemetry/stream", { onEvent: take, onState: linkChanged, headers: authorization });

function authorization() {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

async function read(path) {
  try {
    const response = await fetch(path, { headers: authorization(), cache: "no-store" });
    state.setServerClock(response.headers.get("Date"));
    return response.ok ? await response.json() : null;
  } catch {
    return null;
  }
}

// What came before this page was opened, and what was missed while the stream was cut.
async function readAll() {
  const [latest, current] = await Promise.all([read("/v1/telemetry/latest"), read("/v1/plans")]);
  const planners = PLANNERS.filter((planner) => planner in (current?.plans ?? {}));
  const histories = await Promise.all(planners.map((name) => read(`/v1/plans/${name}/history?limit=50`)));
  histories.forEach((history, i) => {
    for (const plan of history?.plans ?? []) state.takePlan(planners[i], plan, false);
  });
  table.offer(planners);
  for (const [planner, plan] of Object.entries(current?.plans ?? {})) {
    if (!isOlder(plan, state.current[planner])) state.takeView(planner, plan, current.alarms?.[planner]);
  }
  // The stream may have been faster than this answer.
  if (latest?.snapshot && !(state.snapshot?.seq >= latest.snapshot.seq)) state.takeSnapshot(latest.snapshot);
  state.takeHistory(latest?.power_history);
  state.takeSilence(latest?.health?.silent_s);
  hasRead = true;
  draw("snapshot", "plans");
}

const isOlder = (plan, than) => plan && than && plan.created_at < than.created_at;

function take(type, content) {
  if (type === "snapshot") {
    announceChanges(state.snapshot, content);
    state.takeSnapshot(content);
    draw("snapshot");
  } else if (type === "plan") {
    announceAlarm(content.planner, content.alarm ?? content.plan?.alarm);
    state.takeView(content.planner, content.plan, content.alarm);
    draw("plans");
  }
}

function draw(...parts) {
  parts.forEach((part) => dirty.add(part));
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    const due = dirty;
    dirty = new Set();
    if (due.has("plans")) {
      table.live = isLive();
      table.update();
      load.update(state.part("routing"));
      joint.update(state.current.joint, state.planList("joint"));
    }
    if (state.snapshot && due.size) {
      fabric.update(state.snapshot, state.part("nvlink"));
      power.update(state);
      updateTables(state);
      showEvents();
    }
    tick();
  });
}

const isLive = () => stream.state === "live" && !state.isOld();

function linkChanged(link, reason) {
  setHidden(byId("token-form"), link !== "denied");
  if (link === "denied") byId("token").focus();
  if (link === "live") readAll();
  say(`${LINK_TEXT[link]}${reason ? `: ${reason}` : ""}`);
  tick();
}

// Everything that changes by time alone.
function tick() {
  const old = state.age();
  const live = isLive();
  const lacking = old === null ? "Connected, no data yet" : "Connected, data is old";
  document.body.dataset.link = stream.state;
  document.body.dataset.fresh = live ? "yes" : "no";
  setText(byId("link-text"), stream.state === "live" && !live ? lacking : LINK_TEXT[stream.state]);
  setText(byId("t-age"), age(old));
  banner(old);
  if (table.live !== live) { table.live = live; table.update(); } else table.tick();
  header();
  alarms();
}

function banner(old) {
  const node = byId("banner");
  // A page that has just been opened has nothing to warn of before the first answer is in.
  const opening = old === null && (stream.state === "connecting" || (stream.state === "live" && !hasRead));
  setHidden(node, isLive() || stream.state === "denied" || opening);
  if (node.hidden) return;
  const shown = old === null ? "No data has come yet." : `All below is as it was ${age(old)} ago.`;
  const why = {
    live: old === null ? "The server answers, but has no telemetry." : "The server answers, but its telemetry stands still.", silent: "The server has gone silent.",
    cut: `Disconnected: ${stream.reason}; trying again.`, connecting: "Connecting again.",
  }[stream.state] ?? "";
  setText(node, `${why} ${shown}`);
}

function header() {
  const { snapshot } = state;
  if (!snapshot) return;
  const { gpus = [], alive = [], links = [], sources = [] } = snapshot;
  const dead = alive.filter((is) => is === false).length;
  const down = links.filter(isDown).length;
  setHidden(byId("simulated"), !snapshot.simulated);
  setText(byId("t-gpus"), `${gpus.length - dead} of ${gpus.length}`);
  setText(byId("t-links"), links.length ? `${links.length - down} of ${links.length}` : NONE);
  byId("t-gpus").classList.toggle("bad", dead > 0);
  byId("t-links").classList.toggle("bad", down > 0);
  const { watts: total } = powerOf(snapshot);
  const budget = state.part("energy")?.budget_w ?? null;
  setText(byId("t-power"), watts(total));
  setText(byId("t-budget"), budget === null ? NONE : watts(budget));
  byId("t-power").classList.toggle("bad", budget !== null && total > budget);
  setText(byId("t-source"), sources.join(", ") || NONE);
  byId("t-source").title = sources.join(", ");
}

function alarms() {
  const lines = [];
  for (const planner of PLANNERS) {
    const plan = state.current[planner];
    const word = plan ? state.planState(plan, true) : "current";
    if (!state.alarms[planner] && word === "current") continue;
    const shown = plan ? `; the last safe plan is ${age(state.planAge(plan))} old` : "; there is no plan to show";
    lines.push(`${planner}: ${state.alarms[planner] ?? `the plan has ${word === "expired" ? "expired" : "gone stale"}`}${shown}`);
  }
  setHidden(byId("alarms"), !lines.length);
  const node = byId("alarms").firstElementChild;
  while (node.children.length > lines.length) node.lastElementChild.remove();
  lines.forEach((line, i) => setText(node.children[i] ?? node.appendChild(el("li")), line));
}

function showEvents() {
  const node = byId("event-list");
  const newest = [...state.events].reverse();
  const key = newest.length ? `${newest.length}|${newest[0].ts_s}|${newest[0].kind}|${newest[0].subject}` : "none";
  if (node.dataset.key === key) return;
  node.dataset.key = key;
  node.replaceChildren(...(newest.length ? newest.map((event) =>
    el("li", {}, el("time", {}, clock(event.ts_s)), " ", el("b", {}, event.kind), ` ${event.subject ?? ""} `, el("span", {}, event.detail ?? "")))
    : [el("li", { class: "note" }, "Nothing has happened.")]));
}

function announceChanges(before, now) {
  if (!before) return;
  const was = new Map(before.gpus.map((gpu, i) => [gpu, before.alive?.[i] !== false]));
  const lost = now.gpus.filter((gpu, i) => now.alive?.[i] === false && was.get(gpu));
  const back = now.gpus.filter((gpu, i) => now.alive?.[i] !== false && was.get(gpu) === false);
  const wasUp = new Map((before.links ?? []).map((link) => [link.id, link.up]));
  const down = (now.links ?? []).filter((link) => isDown(link) && wasUp.get(link.id) !== false);
  if (lost.length) say(`${plural(lost.length, "GPU")} lost: ${lost.slice(0, 3).join(", ")}`);
  if (back.length) say(`${plural(back.length, "GPU")} back`);
  if (down.length) say(`${plural(down.length, "link")} down: ${down[0].id}`);
}

// Once when it begins: the counting seconds inside an alarm's text are no news.
function announceAlarm(planner, alarm) {
  if (alarm && !state.alarms[planner]) say(`${planner}: ${alarm}`);
  if (!alarm && state.alarms[planner]) say(`${planner}: all is well again`);
}

function say(text) { setText(byId("status"), text); }

byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, byId("token").value);
  byId("token").value = "";
  stream.retryNow();
});
byId("gpu-details").addEventListener("toggle", () => updateTables(state));
setInterval(tick, 1000);
stream.start();
