// The fabric: GPUs and switches as points, links coloured and widened by load, what is dead marked.

import cytoscape from "./vendor/cytoscape.esm.min.js";
import { byId, legend, onResize, onThemeChange, setText, theme } from "./dom.js";
import { list, num, percent, plural } from "./format.js";
import { commonPrefix, layout, model, nodeOf } from "./fabric_layout.js";
import { isDown } from "./state.js";

const BINS = [0.1, 0.25, 0.5, 0.8, Infinity];
const WIDTHS = [1, 1.5, 2.2, 3, 4.2];
const LABELS = ["under 10 %", "10–25", "25–50", "50–80", "80 % and over"];
const bin = (load) => BINS.findIndex((edge) => load < edge);

export class Fabric {
  constructor() {
    this.box = byId("fabric-graph");
    this.mode = "measured";
    this.signature = "";
    this.cy = cytoscape({
      container: this.box, style: [], layout: { name: "preset" }, zoomingEnabled: false,
      panningEnabled: false, boxSelectionEnabled: false, autoungrabify: true, autounselectify: true,
    });
    this.cy.on("mouseover tap", "node, edge", (event) => this.describe(event.target));
    byId("fabric-mode").addEventListener("change", (event) => {
      this.mode = event.target.value;
      if (this.snapshot) this.update(this.snapshot, this.plan);
    });
    legend(byId("fabric-legend"), [
      ...LABELS.map((text, i) => [`line l${i}`, text]),
      ["line down", "down"], ["line unknown", "not known"], ["gpu", "GPU"], ["gpu dead", "dead GPU"],
    ]);
    onResize(this.box, () => { this.cy.resize(); this.place(); });
    onThemeChange(() => this.restyle());
    this.restyle();
  }

  restyle() {
    const color = theme();
    const sheet = [
      { selector: "node", style: { label: "data(label)", color: color("muted"), "font-size": 10, "font-family": "system-ui, sans-serif", "text-valign": "center", "min-zoomed-font-size": 0, events: "yes" } },
      { selector: ".leaf", style: { shape: "round-rectangle", "background-color": color("gpu"), "border-width": 0, "text-valign": "bottom", "text-margin-y": 2, width: "data(size)", height: "data(size)" } },
      { selector: ".dead", style: { "background-opacity": 0, "border-width": 1.5, "border-style": "dashed", "border-color": color("bad"), label: "✕", color: color("bad"), "text-valign": "center", "text-margin-y": 0, "font-weight": "bold", "font-size": 12 } },
      { selector: ".hurt", style: { "border-width": 2, "border-style": "dashed", "border-color": color("bad") } },
      { selector: ".hub", style: { shape: "hexagon", "background-color": color("panel"), "border-width": 1.5, "border-color": color("muted"), width: 22, height: 22, color: color("ink"), "text-valign": "bottom", "text-margin-y": 3, "text-background-color": color("panel"), "text-background-opacity": 0.85, "text-background-padding": 2 } },
      { selector: ".hub.small", style: { width: 10, height: 10, label: "" } },
      { selector: ".name", style: { "background-opacity": 0, width: 1, height: 1, events: "no" } },
      { selector: "edge", style: { "curve-style": "straight", width: 1, "line-color": color("load-0"), color: color("bad"), "font-size": 13, "font-weight": "bold" } },
      ...WIDTHS.map((width, i) => ({ selector: `edge.l${i}`, style: { width, "line-color": color(`load-${i}`), "z-index": i } })),
      { selector: "edge.unknown", style: { "line-style": "dotted", "line-color": color("muted") } },
      { selector: "edge.down", style: { width: 1.5, "line-style": "dashed", "line-color": color("bad"), label: "✕", "z-index": 9 } },
      ...WIDTHS.map((_, i) => ({ selector: `.leaf.cell.l${i}`, style: { "background-color": color(`load-${i}`) } })),
    ];
    this.cy.style().fromJson(sheet).update();
  }

  update(snapshot, plan) {
    this.snapshot = snapshot;
    this.plan = plan;
    const links = snapshot.links ?? [];
    const signature = JSON.stringify([snapshot.gpus, links.map((link) => link.id)]);
    if (signature !== this.signature) { this.signature = signature; this.build(); }
    this.paint();
    this.say();
  }

  build() {
    this.graph = model(this.snapshot);
    const nodes = [...new Set(this.graph.leaves.map((leaf) => leaf.node))];
    this.prefix = commonPrefix(nodes);
    const shared = this.graph.hubs.filter((hub) => hub.home === null).length;
    const named = this.graph.leaves.length <= 16;
    const elements = [
      ...this.graph.leaves.map((leaf) => ({ data: { id: leaf.id, label: named ? leaf.id.slice(this.prefix.length) : "", size: 8 }, classes: "leaf" })),
      ...this.graph.hubs.map((hub) => ({ data: { id: hub.id, label: hubName(hub) }, classes: (hub.home !== null && nodes.length > 1) || shared > 3 ? "hub small" : "hub" })),
      ...nodes.map((node) => ({ data: { id: `name:${node}`, label: node.slice(this.prefix.length) || node }, classes: "name" })),
    ];
    const ids = new Set(elements.map((element) => element.data.id));
    for (const edge of this.graph.edges) {
      if (ids.has(edge.source) && ids.has(edge.target)) elements.push({ data: { ...edge } });
    }
    this.cy.elements().remove();
    this.cy.add(elements);
    this.place();
  }

  place() {
    if (!this.graph || !this.box.clientWidth) return;
    this.drawn = layout(this.graph, this.box.clientWidth, this.box.clientHeight);
    const { position, labels, size, kind } = this.drawn;
    this.cy.batch(() => {
      const names = new Map(labels.map((label) => [`name:${label.node}`, label.at]));
      this.cy.nodes().forEach((node) => {
        const at = position.get(node.id()) ?? names.get(node.id());
        node.style("display", at ? "element" : "none");
        if (at) node.position({ x: at[0], y: at[1] });
        if (node.hasClass("leaf")) node.data("size", size).toggleClass("cell", kind === "matrix");
      });
      this.cy.edges().style("display", kind === "matrix" ? "none" : "element");
    });
    if (this.snapshot) this.paint();
  }

  loadOf(link) {
    if (this.mode === "measured") return link.load ?? null;
    return this.plan?.link_loads?.[link.id] ?? null;
  }

  // The state of a drawn line: its most loaded link, and how many of its links are down.
  stateOf(edge) {
    const links = edge.links.map((index) => this.snapshot.links[index]);
    const loads = links.filter((link) => !isDown(link)).map((link) => this.loadOf(link)).filter((x) => x !== null);
    const down = links.filter(isDown);
    return { links, down, load: loads.length ? Math.max(...loads) : null };
  }

  paint() {
    const { alive = [] } = this.snapshot;
    const worst = new Map(), hurt = new Set();
    this.cy.batch(() => {
      for (const edge of this.graph.edges) {
        const { down, load } = this.stateOf(edge);
        const kind = down.length ? "down" : load === null ? "unknown" : `l${bin(load)}`;
        const drawn = this.cy.getElementById(edge.id);
        if (drawn.nonempty() && drawn.data("kind") !== kind) drawn.data("kind", kind).classes(kind);
        for (const end of [edge.source, edge.target]) {
          worst.set(end, Math.max(worst.get(end) ?? 0, load ?? 0));
          if (down.length) hurt.add(end);
        }
      }
      for (const leaf of this.graph.leaves) {
        const dead = this.graph.members.get(leaf.id).every((index) => alive[index] === false);
        const node = this.cy.getElementById(leaf.id);
        node.toggleClass("dead", dead);
        if (this.drawn?.kind === "matrix") {
          const own = bin(worst.get(leaf.id) ?? 0);
          node.toggleClass("hurt", hurt.has(leaf.id) && !dead);
          WIDTHS.forEach((_, i) => node.toggleClass(`l${i}`, i === own));
        }
      }
    });
  }

  say() {
    const { gpus = [], alive = [], links = [] } = this.snapshot;
    const nodes = new Set(gpus.map(nodeOf));
    const dead = gpus.filter((_, index) => alive[index] === false);
    const down = links.filter(isDown).map((link) => link.id);
    const rated = links.filter((link) => !isDown(link) && this.loadOf(link) !== null);
    const busiest = rated.sort((a, b) => this.loadOf(b) - this.loadOf(a)).slice(0, 3);
    const parts = [`${plural(gpus.length, "GPU")} on ${plural(nodes.size, "node")}, ${plural(links.length, "link")}.`];
    parts.push(dead.length ? `${plural(dead.length, "GPU")} dead: ${list(dead)}.` : "All GPUs alive.");
    if (links.length) parts.push(down.length ? `${plural(down.length, "link")} down: ${list(down)}.` : "All links up.");
    const what = this.mode === "measured" ? "Busiest" : "Busiest as planned";
    if (busiest.length) parts.push(`${what}: ${busiest.map((link) => `${link.id} ${percent(this.loadOf(link), 0)}`).join(", ")}.`);
    else parts.push(this.mode === "measured" ? "No link load is reported." : "The NVLink plan holds no link loads.");
    if (this.prefix && this.drawn?.labels.length) parts.push(`Labels leave out “${this.prefix}”.`);
    if (this.graph.hubs.some((hub) => hub.names.length > 1)) parts.push("Switches that join the same GPUs are drawn as one; a line shows its busiest link.");
    if (this.drawn?.kind === "matrix") parts.push("Too many links to draw: each square has the colour of its busiest link, and a dashed edge where one is down.");
    setText(byId("fabric-text"), parts.join(" "));
  }

  describe(target) {
    if (!this.snapshot) return;
    setText(byId("fabric-pick"), target.isEdge() ? this.lineText(target) : this.pointText(target));
  }

  lineText(target) {
    const { links, down, load } = this.stateOf({ links: target.data("links") });
    const bandwidth = links.reduce((total, link) => total + (link.bandwidth_gb_s ?? 0), 0);
    const state = down.length ? `${down.length} of ${links.length} down` : "up";
    const more = links.length > 1 ? ` and ${links.length - 1} more` : "";
    return `${links[0].id}${more}: ${state}, load ${percent(load, 0)}, ${num(bandwidth)} GB/s`;
  }

  pointText(target) {
    const members = this.graph.members.get(target.id());
    if (!members) return this.graph.hubs.find((hub) => hub.id === target.id())?.names.join(", ") ?? "";
    const { gpus, alive = [], power_w: power = [], utilization = [] } = this.snapshot;
    return members.slice(0, 8).map((i) =>
      `${gpus[i]}: ${alive[i] === false ? "dead" : `${num(power[i])} W, ${percent(utilization[i], 0)} busy`}`).join("; ");
  }
}

function hubName(hub) {
  return hub.names.length === 1 ? hub.names[0].split("/").at(-1) : `${hub.names.length} switches`;
}
