// The table of plans, newest first. Rows are kept, never redrawn: focus and selection stay put.

import { byId, el, setText } from "./dom.js";
import { age, clock, duration, num, percent, plural, signed } from "./format.js";

const COLUMNS = ["Planner", "State", "Age", "Objective", "Bound", "Gap", "Solver", "Quantum gain", "Time"];

export class PlanTable {
  constructor(state, onSelect) {
    Object.assign(this, { state, onSelect, planner: "all", selected: null, rows: new Map() });
    this.body = byId("plan-table").tBodies[0];
    this.follow = "joint";
    this.body.addEventListener("keydown", (event) => this.key(event));
    this.body.addEventListener("click", (event) => this.choose(event.target.closest("tr"), false));
    this.body.addEventListener("focusin", (event) => this.choose(event.target.closest("tr"), false));
    this.offer([]);
    byId("plan-filter").addEventListener("change", (event) => {
      this.planner = event.target.value;
      this.follow = this.planner === "all" ? "joint" : this.planner;
      this.update();
    });
  }

  // The choice of planners: those that the server has.
  offer(planners) {
    const filter = byId("plan-filter");
    for (const name of ["all", ...planners]) {
      if (filter.querySelector(`[value="${CSS.escape(name)}"]`)) continue;
      filter.append(el("label", {}, el("input", { type: "radio", name: "planner", value: name, checked: name === "all" }), name));
    }
  }

  // Selecting the newest plan of a planner follows it; selecting an older one stays there.
  choose(row, focus) {
    if (!row) return;
    const plan = this.state.plans.get(row.dataset.id);
    if (!plan) return;
    const newest = this.state.planList(plan.planner)[0];
    this.follow = newest.plan_id === plan.plan_id ? plan.planner : null;
    this.select(plan.plan_id);
    if (focus) row.focus();
  }

  select(id) {
    if (this.selected !== id) {
      this.rows.get(this.selected)?.setAttribute("aria-selected", "false");
      this.selected = id;
      this.rows.get(id)?.setAttribute("aria-selected", "true");
      this.rove();
    }
    this.onSelect(this.state.plans.get(id));
  }

  // One row alone is in the tab order: the selected one, else the first.
  rove() {
    const stop = this.rows.get(this.selected) ?? this.body.rows[0];
    for (const row of this.body.rows) {
      const index = row === stop ? "0" : "-1";
      if (row.getAttribute("tabindex") !== index) row.setAttribute("tabindex", index);
    }
  }

  key(event) {
    const row = event.target.closest("tr");
    const rows = [...this.body.rows];
    const at = rows.indexOf(row);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1, PageDown: at + 10, PageUp: at - 10 }[event.key];
    if (to === undefined || at < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    this.choose(rows[Math.min(rows.length - 1, Math.max(0, to))], true);
  }

  update() {
    const plans = this.state.planList(this.planner);
    const keep = new Set(plans.map((plan) => plan.plan_id));
    for (const [id, row] of this.rows) {
      if (!keep.has(id)) {
        // Focus must not fall to the top of the page when the row it is on goes away.
        if (row.contains(document.activeElement)) (row.previousElementSibling ?? byId("plans")).focus();
        row.remove();
        this.rows.delete(id);
      }
    }
    let next = this.body.firstElementChild;
    for (const plan of plans) {
      let row = this.rows.get(plan.plan_id);
      if (!row) { row = this.make(plan); this.rows.set(plan.plan_id, row); }
      if (row === next) next = next.nextElementSibling;
      else this.body.insertBefore(row, next);
    }
    this.followNewest(plans);
    this.rove();
    this.tick();
    const fallbacks = plans.filter((plan) => plan.solver?.fallback_reason).length;
    const note = fallbacks ? `, ${fallbacks} by a fallback` : "";
    setText(byId("plans-text"), plans.length ? `${plural(plans.length, "plan")}${note}; the newest at the top.` : "No plan yet.");
  }

  followNewest(plans) {
    const holdsFocus = this.body.contains(document.activeElement);
    if (this.follow && !holdsFocus) {
      const newest = plans.find((plan) => plan.planner === this.follow) ?? plans[0];
      if (newest) this.select(newest.plan_id);
    } else if (this.selected) this.onSelect(this.state.plans.get(this.selected));
  }

  make(plan) {
    const cells = COLUMNS.map((name) => el("td", { role: "gridcell", "data-label": name }));
    const row = el("tr", { role: "row", tabindex: "-1", "data-id": plan.plan_id, "aria-selected": String(plan.plan_id === this.selected) }, ...cells);
    return row;
  }

  // Ages and states move on without any event.
  tick() {
    for (const [id, row] of this.rows) {
      const plan = this.state.plans.get(id);
      if (!plan) continue;
      const state = this.state.planState(plan, this.live);
      if (row.dataset.state !== state) row.dataset.state = state;
      const { requested, used, fallback_reason: reason } = plan.solver ?? {};
      const fellBack = Boolean(reason) || (requested && used && requested !== used && requested !== "auto");
      // Said once in the header while all is simulated; here where only some plans are.
      const simulated = plan.telemetry?.simulated && !this.state.snapshot?.simulated ? ", simulated" : "";
      const texts = [
        plan.planner, state + simulated, age(this.state.planAge(plan)), num(plan.objective, 5), num(plan.lower_bound, 5),
        percent(plan.gap), fellBack ? `${used} ⚠ instead of ${requested}: ${reason ?? "no reason given"}` : used ?? "–",
        signed(plan.quantum_gain), `${clock(plan.created_at)} in ${duration(plan.wall_s)}`,
      ];
      texts.forEach((text, i) => setText(row.cells[i], text));
      row.classList.toggle("fell-back", fellBack);
      if (plan.quantum_gain === null || plan.quantum_gain === undefined) row.cells[7].title = plan.reasons?.quantum_gain ?? "";
      if (plan.lower_bound === null || plan.lower_bound === undefined) row.cells[4].title = plan.reasons?.lower_bound ?? "";
    }
  }
}
