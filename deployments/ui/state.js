// What the page knows, bounded: the newest snapshot, a ring of power samples, the plans seen.

import { sum } from "./format.js";

export const PLANNERS = ["routing", "energy", "nvlink", "joint"];
export const LIMITS = { samples: 900, plans: 240, events: 100 };
// Data is called old after three missed samples, but never before so many seconds.
const OLD_S = 5;
const PERIODS = 3.5;
const MODULE_FIELDS = [
  "gpu_load_before", "gpu_load_after", "balancedness_before", "upper_bound", "moved_slots",
  "switched", "kept", "budget_w", "slowdown", "assignment", "unplaced",
  "measure", "relative_speed", "absent", "made_here", "conflicts",
];
const PARTS = ["routing", "energy", "nvlink"];
const ENVELOPE = [
  "plan_id", "created_at", "planner", "config", "seed", "telemetry", "wall_s", "solver",
  "objective", "lower_bound", "gap", "baselines", "quantum_gain", "reasons", "warnings",
  "expires_at",
];

export class State {
  constructor() {
    this.snapshot = null;
    this.samples = [];
    this.plans = new Map();
    this.current = {};
    this.alarms = {};
    this.period = 1;
    this.events = [];
    this.clockOffset = 0;
    this.advancedAt = null;
    this.sentAge = 0;
  }

  // The server's clock by its Date header (whole seconds): a laptop's own may be minutes off.
  setServerClock(header) {
    const then = Date.parse(header ?? "");
    if (!Number.isNaN(then) && Math.abs(then - Date.now()) > 2000) {
      this.clockOffset = (then - Date.now()) / 1000;
    }
  }

  now() { return Date.now() / 1000 + this.clockOffset; }

  takeSnapshot(snapshot) {
    const before = this.snapshot;
    // A replayed trace that begins again.
    if (before && snapshot.ts_s < before.ts_s) this.samples = [];
    if (!before || snapshot.ts_s !== before.ts_s) {
      if (before) this.period = 0.8 * this.period + 0.2 * Math.min(60, this.sinceAdvance());
      this.advancedAt = performance.now();
      this.sentAge = this.ageWhenSent(snapshot);
      this.addSample(snapshot);
    }
    this.snapshot = snapshot;
    this.takeEvents(snapshot.events ?? []);
  }

  ageWhenSent(snapshot) {
    // A replayed trace carries the times at which it was recorded.
    if ((snapshot.sources ?? []).some((name) => name.startsWith("replay"))) return 0;
    const age = this.now() - snapshot.ts_s;
    return age > 1.5 ? age : 0;
  }

  // Seconds since the telemetry last advanced, counted here: it grows whatever the server says.
  age() {
    return this.advancedAt === null ? null : this.sentAge + this.sinceAdvance();
  }

  // The hub's own count of the seconds since anything arrived: on a page opened late, and for a
  // replayed trace, the samples' times cannot tell.
  takeSilence(seconds) {
    if (seconds > this.age()) this.sentAge += seconds - this.age();
  }

  sinceAdvance() { return (performance.now() - this.advancedAt) / 1000; }

  isOld() { return this.advancedAt === null || this.age() > Math.max(OLD_S, PERIODS * this.period); }

  // Power from before the page was opened; it may arrive after the first live samples.
  takeHistory(history) {
    const later = this.samples;
    this.samples = [];
    for (const [ts, power] of history ?? []) {
      if (!later.length || ts < later[0][0]) this.push([ts, power, null, null]);
    }
    for (const sample of later) this.push(sample);
  }

  addSample(snapshot) {
    const energy = this.part("energy");
    const power = powerOf(snapshot).watts;
    this.push([snapshot.ts_s, power, energy?.budget_w ?? null, energy?.predicted_w ?? null]);
  }

  push(sample) {
    const last = this.samples.at(-1);
    if (last && sample[0] <= last[0]) return;
    // A hole in the data stays a hole in the line.
    if (last && sample[0] - last[0] > Math.max(OLD_S, PERIODS * this.period)) this.samples.push([last[0] + 1, null, null, null]);
    this.samples.push(sample);
    if (this.samples.length > LIMITS.samples) this.samples.splice(0, this.samples.length - LIMITS.samples);
  }

  takeEvents(events) {
    const seen = new Set(this.events.map(eventKey));
    for (const event of events) if (!seen.has(eventKey(event))) this.events.push(event);
    this.events.sort((a, b) => a.ts_s - b.ts_s);
    if (this.events.length > LIMITS.events) this.events.splice(0, this.events.length - LIMITS.events);
  }

  // A planner's view: its newest safe plan, or none, and what is wrong if anything is.
  takeView(planner, raw, alarm) {
    this.alarms[planner] = alarm ?? raw?.alarm ?? null;
    this.takePlan(planner, raw);
  }

  takePlan(planner, raw, isCurrent = true) {
    if (!raw?.plan_id) return;
    const plan = { ...this.plans.get(raw.plan_id), ...condense(raw), planner };
    this.plans.set(plan.plan_id, plan);
    if (isCurrent) {
      plan.stale = Boolean(raw.stale);
      plan.alarm = raw.alarm ?? null;
      plan.sentAge = typeof raw.age_s === "number" ? raw.age_s : this.now() - plan.created_at;
      plan.takenAt = performance.now();
      this.current[planner] = plan;
    }
    this.forgetOldPlans();
  }

  forgetOldPlans() {
    if (this.plans.size <= LIMITS.plans) return;
    const keep = new Set(Object.values(this.current).map((plan) => plan.plan_id));
    const ids = [...this.plans.values()].sort((a, b) => a.created_at - b.created_at);
    for (const { plan_id: id } of ids) {
      if (this.plans.size <= LIMITS.plans) return;
      if (!keep.has(id)) this.plans.delete(id);
    }
  }

  planAge(plan) {
    if (plan.takenAt === undefined) return Math.max(0, this.now() - plan.created_at);
    return plan.sentAge + (performance.now() - plan.takenAt) / 1000;
  }

  // What is carried out of a planner's work: its part of the joint plan while that one is good.
  part(planner) {
    const { joint } = this.current;
    const whole = joint && !joint.stale ? joint.parts?.[planner] : null;
    return whole ?? this.current[planner];
  }

  // One word for the table: what may be relied on.
  planState(plan, live) {
    if (this.current[plan.planner]?.plan_id !== plan.plan_id) return "replaced";
    if (plan.stale) return "stale";
    if (plan.expires_at && plan.expires_at < this.now()) return "expired";
    return live ? "current" : "last known";
  }

  planList(planner) {
    return [...this.plans.values()]
      .filter((plan) => planner === "all" || plan.planner === planner)
      .sort((a, b) => b.created_at - a.created_at || (a.plan_id < b.plan_id ? 1 : -1));
  }
}

const eventKey = (event) => `${event.ts_s}|${event.kind}|${event.subject}|${event.detail}`;

// The envelope and the module's figures that are shown; slots and queues can be megabytes.
function condense(raw) {
  const plan = {};
  for (const name of [...ENVELOPE, ...MODULE_FIELDS]) if (name in raw) plan[name] = raw[name];
  if ("balancedness_after" in raw) plan.balancedness = raw.balancedness_after;
  if ("caps_w" in raw) Object.assign(plan, { caps_w: raw.caps_w, gpus: raw.gpus });
  if ("predicted_power_w" in raw) Object.assign(plan, { predicted_w: raw.predicted_power_w?.p50 ?? null, most_w: raw.predicted_power_w?.p95 ?? null });
  if ("link_loads" in raw) plan.link_loads = raw.link_loads;
  if (raw.conflicts) {
    plan.parts = {};
    for (const name of PARTS) if (raw[name]) plan.parts[name] = condense(raw[name]);
  }
  return plan;
}

// A budget is for whole nodes: their own meters where there are any, else the boards they hold.
export function powerOf(snapshot) {
  const nodes = snapshot.node_power_w ?? [];
  const total = sum(nodes);
  if (total !== null) return { watts: total, missing: nodes.filter((w) => w === null).length, of: "node" };
  const boards = snapshot.power_w ?? [];
  const alive = snapshot.alive ?? [];
  const missing = boards.filter((w, i) => w === null && alive[i] !== false).length;
  return { watts: sum(boards), missing, of: "GPU" };
}

// Telemetry that does not say whether a link is up does not make it a dead one.
export const isDown = (link) => link.up === false;
