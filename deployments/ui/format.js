// Figures for people: short, with units, and a dash where nothing is known.

export const NONE = "–";

const known = (x) => typeof x === "number" && Number.isFinite(x);

export function num(x, digits = 4) {
  if (!known(x)) return NONE;
  if (x === 0) return "0";
  const size = Math.abs(x);
  return (x < 0 ? "−" : "") + magnitude(size, digits);
}

function magnitude(size, digits) {
  if (size >= 1e7 || size < 1e-4) return size.toExponential(2).replace("e+", "e").replace("e-", "e−");
  if (size >= 10 ** digits) return Math.round(size).toLocaleString("en");
  return String(Number(size.toPrecision(digits)));
}

// Whole watts for one board, kilowatts for a rack, megawatts for a hall.
export function watts(x) {
  if (!known(x)) return NONE;
  const size = Math.abs(x);
  if (size >= 1e6) return `${(x / 1e6).toFixed(2)} MW`;
  if (size >= 2000) return `${(x / 1e3).toFixed(size < 1e4 ? 2 : 1)} kW`;
  return `${Math.round(x)} W`;
}

export function percent(x, digits) {
  if (!known(x)) return NONE;
  const value = 100 * x;
  // What is not zero is not shown as zero: a gap of 0 is a proof.
  if (digits === undefined && value !== 0 && Math.abs(value) < 0.005) return value > 0 ? "< 0.01 %" : "> −0.01 %";
  return `${value.toFixed(digits ?? (Math.abs(value) < 10 && value !== 0 ? 2 : 0))} %`;
}

export function signed(x) {
  return known(x) && x > 0 ? `+${num(x)}` : num(x);
}

export function duration(seconds) {
  if (!known(seconds)) return NONE;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  return age(seconds);
}

export function age(seconds) {
  if (!known(seconds)) return NONE;
  const s = Math.max(0, Math.floor(seconds));
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

export function clock(ts) {
  return known(ts) ? new Date(ts * 1000).toLocaleTimeString("en-GB") : NONE;
}

export function sum(values) {
  let total = 0, count = 0;
  for (const value of values ?? []) if (known(value)) { total += value; count += 1; }
  return count ? total : null;
}

export function list(names, most = 4) {
  const shown = names.slice(0, most).join(", ");
  return names.length > most ? `${shown} and ${names.length - most} more` : shown;
}

export const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
