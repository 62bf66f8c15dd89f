// Two charts by uPlot: power against budget over time, and load per GPU before and after.

import uPlot from "./vendor/uPlot.esm.js";
import { byId, legend, onResize, onThemeChange, setText, theme } from "./dom.js";
import { dots } from "./dots.js";
import { num, percent, plural, watts } from "./format.js";
import { powerOf } from "./state.js";

// uPlot takes its colours once: a chart is made anew when the theme changes, else only resized.
export class Chart {
  constructor(id, options) {
    this.box = byId(id);
    this.options = options;
    this.data = null;
    onResize(this.box, () => this.resize());
    onThemeChange(() => this.rebuild());
  }

  show(data) {
    this.data = data;
    if (this.plot) this.plot.setData(data);
    else this.rebuild();
  }

  size() { return { width: this.box.clientWidth, height: this.box.clientHeight }; }

  resize() { this.plot?.setSize(this.size()); }

  rebuild() {
    if (!this.data || !this.box.clientWidth) return;
    this.plot?.destroy();
    const options = { legend: { show: false }, cursor: { drag: { x: false, y: false } }, ...this.options(theme()), ...this.size() };
    this.plot = new uPlot(options, this.data, this.box);
  }
}

export const axis = (color, more = {}) => ({
  stroke: color("muted"), grid: { stroke: color("rule"), width: 1 }, ticks: { show: false },
  font: "11px system-ui, sans-serif", ...more,
});

export class PowerChart {
  constructor() {
    legend(byId("power-legend"), [["line power", "power"], ["line budget", "budget"], ["line predicted", "predicted, median"]]);
    this.chart = new Chart("power-chart", (color) => ({
      padding: [8, 12, 0, 0],
      scales: { x: { time: true }, y: { range: (_, low, high) => range(low, high) } },
      axes: [
        axis(color, { size: 30, space: 90, values: "{HH}:{mm}:{ss}" }),
        axis(color, { size: 62, values: (_, ticks) => ticks.map(watts) }),
      ],
      series: [
        {},
        { stroke: color("power"), width: 2, points: { show: false } },
        { stroke: color("bad"), width: 1.5, dash: [9, 4], points: { show: false } },
        { stroke: color("muted"), width: 1.5, dash: [2, 3], points: { show: false } },
      ],
    }));
  }

  update(state) {
    const { samples, snapshot } = state;
    if (!samples.length) return;
    this.chart.show([0, 1, 2, 3].map((column) => samples.map((sample) => sample[column])));
    setText(byId("power-text"), powerText(powerOf(snapshot), state.part("energy")));
  }
}

function powerText({ watts: power, missing, of }, plan) {
  const parts = [of === "node" ? `Power of the nodes ${watts(power)}` : `Power of the GPUs alone ${watts(power)}`];
  const budget = plan?.budget_w;
  if (power !== null && budget) {
    const left = budget - power;
    parts.push(left >= 0 ? `${watts(left)} (${percent(left / budget)}) under the budget of ${watts(budget)}`
      : `${watts(-left)} OVER the budget of ${watts(budget)}`);
  } else parts.push("no budget is planned");
  if (missing) parts.push(`${plural(missing, of)} without a power reading`);
  return `${parts.join("; ")}.`;
}

// Not from zero: what matters is how near the line runs to the budget. The axis says so.
function range(low, high) {
  if (low === null || high === null) return [0, 1];
  const pad = Math.max((high - low) * 0.15, high * 0.02, 1);
  return [Math.max(0, low - pad), high + pad];
}

export class LoadChart {
  constructor() {
    this.shown = null;
    legend(byId("load-legend"), [["bar before", "before"], ["bar after", "after"]]);
    const bars = (align) => uPlot.paths.bars({ size: [0.42, 24], align });
    this.chart = new Chart("load-chart", (color) => ({
      padding: [8, 8, 0, 0],
      scales: {
        x: { time: false, range: (_, low, high) => [low - 0.7, high + 0.7] },
        y: { range: (_, low, high) => [Math.min(-0.005, (low ?? 0) * 1.1), Math.max(0.005, (high ?? 0) * 1.1)] },
      },
      axes: [
        axis(color, { size: 28, grid: { show: false }, space: 34, incrs: [1, 2, 4, 8, 16, 32, 64, 128, 256, 512], values: (_, ticks) => ticks.map((i) => (Number.isInteger(i) ? String(i) : "")) }),
        axis(color, { size: 54, values: (_, ticks) => ticks.map(deviation) }),
      ],
      series: [
        {},
        { paths: bars(-1), stroke: color("muted"), width: 1, points: { show: false } },
        { paths: bars(1), stroke: color("power"), fill: color("power"), width: 1, points: { show: false } },
      ],
    }));
  }

  update(plan) {
    const before = plan?.gpu_load_before, after = plan?.gpu_load_after;
    if (!after?.length) {
      setText(byId("load-text"), "No placement of experts is planned yet.");
      return;
    }
    if (this.shown === plan.plan_id) return;
    this.shown = plan.plan_id;
    const even = mean(after);
    // GPUs without any expert, dead ones for instance, have no place on a scale of shares.
    const idle = after.filter((x) => !x).length;
    const apart = (loads) => after.map((_, i) => loads?.[i] ? loads[i] / mean(loads) - 1 : null);
    this.chart.show([after.map((_, i) => i), apart(before), apart(after)]);
    byId("load-balance").replaceChildren(...balance(plan));
    const top = (loads) => deviation(Math.max(...apart(loads)));
    const was = before?.length ? `${top(before)} before and ` : "";
    const moved = typeof plan.moved_slots === "number" ? ` ${plural(plan.moved_slots, "expert slot")} moved.` : "";
    setText(byId("load-text"), even ? `All layers together, the fullest GPU is above the even share by ${was}${top(after)} after.${moved}${idle ? ` ${plural(idle, "GPU")} without experts left out.` : ""}` : "No load was measured.");
  }
}

const deviation = (x) => `${x > 0 ? "+" : x < 0 ? "−" : ""}${num(Math.abs(100 * x), 2)} %`;

// Balancedness is mean over highest load, layer by layer: the higher the better, 1 is even.
function balance(plan) {
  const rows = [
    { name: "before", value: plan.balancedness_before, kind: "baseline" },
    { name: "after", value: plan.balancedness, kind: "ours" },
    { name: "bound", value: plan.upper_bound, kind: "bound" },
  ].filter((row) => typeof row.value === "number");
  return rows.length ? [dots(rows, { excluded: "above", format: (x) => num(x) })] : [];
}

function mean(values) {
  const loaded = values.filter((x) => x > 0);
  return loaded.reduce((total, x) => total + x, 0) / (loaded.length || 1);
}
