// The few things the page does with elements. Text is always set as text, never as markup.

export const byId = (id) => document.getElementById(id);

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// Writing equal text again would make screen readers and the layout work for nothing.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setHidden(node, hidden) {
  if (node.hidden !== hidden) node.hidden = hidden;
}

export function theme() {
  const style = getComputedStyle(document.documentElement);
  return (name) => style.getPropertyValue(`--${name}`).trim();
}

// Calls back when the browser goes from light to dark, or asks for more contrast.
export function onThemeChange(callback) {
  for (const query of ["(prefers-color-scheme: dark)", "(prefers-contrast: more)"]) {
    matchMedia(query).addEventListener("change", callback);
  }
}

export function onResize(node, callback) {
  let last = "";
  new ResizeObserver(() => {
    const size = `${node.clientWidth}x${node.clientHeight}`;
    if (size !== last && node.clientWidth > 0) { last = size; requestAnimationFrame(callback); }
  }).observe(node);
}

export function legend(node, entries) {
  node.replaceChildren(...entries.map(([mark, text]) =>
    el("li", {}, el("span", { class: `key ${mark}` }), text)));
}
