// From a snapshot to points and lines: which vertices are drawn, and where, in pixels.
//
// One switch domain becomes a ring of GPUs by node with its switches in the middle; nodes with
// switches or links of their own become a ring of small rings; very large clusters a matrix.

const MERGE_LINKS = 160;
const MAX_GPUS = 300;
const MAX_RING = 160;

export const nodeOf = (gpu) => gpu.slice(0, Math.max(0, gpu.lastIndexOf("/"))) || gpu;

export function model(snapshot) {
  const gpus = snapshot.gpus ?? [];
  const collapsed = gpus.length > MAX_GPUS;
  const isGpu = new Set(gpus);
  const leafOf = (id) => (isGpu.has(id) && collapsed ? nodeOf(id) : id);
  const leaves = [];
  const members = new Map();
  gpus.forEach((id, index) => {
    const leaf = leafOf(id);
    if (!members.has(leaf)) { members.set(leaf, []); leaves.push({ id: leaf, node: nodeOf(id) }); }
    members.get(leaf).push(index);
  });
  const hubs = mergeSwitches(snapshot.links ?? [], isGpu);
  const edges = new Map();
  for (const [index, link] of (snapshot.links ?? []).entries()) {
    const a = hubs.of.get(link.source) ?? leafOf(link.source);
    const b = hubs.of.get(link.target) ?? leafOf(link.target);
    if (a === b) continue;
    const key = a < b ? `${a}\n${b}` : `${b}\n${a}`;
    if (!edges.has(key)) edges.set(key, { id: `e${edges.size}`, source: a, target: b, links: [] });
    edges.get(key).links.push(index);
  }
  return { leaves, members, collapsed, hubs: hubs.list, edges: [...edges.values()] };
}

// Switches that join the same GPUs are drawn as one where there would be too many lines.
function mergeSwitches(links, isGpu) {
  const neighbours = new Map();
  for (const { source, target } of links) {
    for (const [end, other] of [[source, target], [target, source]]) {
      if (isGpu.has(end)) continue;
      if (!neighbours.has(end)) neighbours.set(end, new Set());
      neighbours.get(end).add(other);
    }
  }
  const merge = links.length > MERGE_LINKS;
  const groups = new Map();
  for (const [name, others] of neighbours) {
    const key = merge ? [...others].sort().join("\n") : name;
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(name);
  }
  const of = new Map();
  const list = [];
  for (const names of groups.values()) {
    const id = `hub:${names[0]}`;
    const ends = [...neighbours.get(names[0])].filter((end) => isGpu.has(end));
    const nodes = new Set(ends.map(nodeOf));
    list.push({ id, names, home: nodes.size === 1 ? [...nodes][0] : null });
    for (const name of names) of.set(name, id);
  }
  return { of, list };
}

export function layout(graph, width, height) {
  if (graph.leaves.length > MAX_RING) return matrix(graph, width, height);
  const nodes = [...new Set(graph.leaves.map((leaf) => leaf.node))];
  const local = graph.hubs.some((hub) => hub.home !== null);
  const direct = graph.edges.some((e) => !e.source.startsWith("hub:") && !e.target.startsWith("hub:"));
  if (nodes.length > 1 && (local || direct)) return clusters(graph, nodes, width, height);
  return ring(graph, nodes, width, height);
}

// Points at equal distances along an ellipse, from the top, clockwise.
function ellipse(count, cx, cy, a, b) {
  const steps = 1440;
  const length = [0];
  const at = (i) => [cx + a * Math.sin((2 * Math.PI * i) / steps), cy - b * Math.cos((2 * Math.PI * i) / steps)];
  for (let i = 1; i <= steps; i += 1) {
    const [x0, y0] = at(i - 1), [x1, y1] = at(i);
    length.push(length[i - 1] + Math.hypot(x1 - x0, y1 - y0));
  }
  const points = [];
  let i = 0;
  for (let k = 0; k < count; k += 1) {
    while (length[i] < (k / count) * length[steps]) i += 1;
    points.push(at(i));
  }
  return { points, spacing: length[steps] / Math.max(1, count) };
}

function inMiddle(hubs, cx, cy, radius, position) {
  const ids = hubs.map((hub) => hub.id);
  if (ids.length === 1) { position.set(ids[0], [cx, cy]); return; }
  ellipse(ids.length, cx, cy, radius, radius).points.forEach((p, i) => position.set(ids[i], p));
}

function ring(graph, nodes, width, height) {
  const position = new Map(), labels = [];
  const cx = width / 2, cy = height / 2;
  const a = Math.max(60, cx - 34), b = Math.max(60, cy - 30);
  const gap = nodes.length > 1 && !graph.collapsed ? 1 : 0;
  const slots = graph.leaves.length + gap * nodes.length;
  const { points, spacing } = ellipse(slots, cx, cy, a, b);
  let slot = 0;
  for (const node of nodes) {
    const own = graph.leaves.filter((leaf) => leaf.node === node);
    const first = slot;
    for (const leaf of own) { position.set(leaf.id, points[slot]); slot += 1; }
    const middle = points[Math.min(points.length - 1, first + Math.floor((own.length - 1) / 2))];
    const beside = points[Math.min(points.length - 1, first + Math.ceil((own.length - 1) / 2))];
    if (nodes.length > 1) labels.push({ node, at: outward([(middle[0] + beside[0]) / 2, (middle[1] + beside[1]) / 2], cx, cy, 17) });
    slot += gap;
  }
  inMiddle(graph.hubs, cx, cy, Math.min(a, b) * 0.3, position);
  return { kind: "ring", position, labels, size: clamp(spacing * 0.72, 4, 16) };
}

function clusters(graph, nodes, width, height) {
  const position = new Map(), labels = [];
  const cx = width / 2, cy = height / 2;
  const { centres, r } = nodes.length <= 4 ? corners(nodes.length, width, height) : around(nodes.length, cx, cy);
  let spacing = 20;
  nodes.forEach((node, i) => {
    const [x, y] = centres[i];
    const own = graph.leaves.filter((leaf) => leaf.node === node);
    const inner = ellipse(own.length, x, y, r, r);
    if (own.length > 1) spacing = Math.min(spacing, inner.spacing);
    own.forEach((leaf, k) => position.set(leaf.id, own.length === 1 ? [x, y] : inner.points[k]));
    inMiddle(graph.hubs.filter((hub) => hub.home === node), x, y, r * 0.4, position);
    labels.push({ node, at: [x, y + r + 13] });
  });
  const shared = graph.hubs.filter((hub) => hub.home === null);
  inMiddle(shared, cx, cy, Math.min(width, height) * (shared.length > 3 ? 0.13 : 0.08), position);
  return { kind: "clusters", position, labels, size: clamp(spacing * 0.6, 4, 14) };
}

function corners(count, width, height) {
  const rows = count === 2 ? [[0.22, 0.5], [0.78, 0.5]] : [[0.2, 0.25], [0.8, 0.25], [0.8, 0.74], [0.2, 0.74]];
  return { centres: rows.map(([x, y]) => [x * width, y * height]), r: Math.min(0.18 * width, 0.19 * height) };
}

function around(count, cx, cy) {
  let r = Math.min(cx, cy) * 0.3;
  let outer;
  for (let pass = 0; pass < 3; pass += 1) {
    outer = ellipse(count, cx, cy, Math.max(20, cx - r - 18), Math.max(20, cy - r - 22));
    r = clamp(Math.min(r, outer.spacing * 0.38), 12, 120);
  }
  return { centres: outer.points, r };
}

function matrix(graph, width, height) {
  const position = new Map();
  const columns = Math.ceil(Math.sqrt((graph.leaves.length * width) / height));
  const rows = Math.ceil(graph.leaves.length / columns);
  const step = Math.min(width / columns, height / rows);
  const left = (width - (columns - 1) * step) / 2, top = (height - (rows - 1) * step) / 2;
  graph.leaves.forEach((leaf, i) =>
    position.set(leaf.id, [left + (i % columns) * step, top + Math.floor(i / columns) * step]));
  return { kind: "matrix", position, labels: [], size: clamp(step * 0.75, 3, 18) };
}

function outward([x, y], cx, cy, by) {
  const d = Math.hypot(x - cx, y - cy) || 1;
  return [x + ((x - cx) / d) * by, y + ((y - cy) / d) * by * 0.85];
}

const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

// What all node names begin with is said once, not on every label.
export function commonPrefix(names) {
  if (names.length < 2) return "";
  let prefix = names[0];
  for (const name of names) while (!name.startsWith(prefix)) prefix = prefix.slice(0, -1);
  return prefix.replace(/\d+$/, "");
}
