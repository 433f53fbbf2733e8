// Text for people: names made harmless, numbers, days, and elements that hold them.

const BIT_BYTE = "bit/byte";

// Control, direction-changing, unassigned and line-breaking characters of a name, shown as U+FFFD.
function shown(text) {
  return String(text).replace(/[\p{Cc}\p{Cf}\p{Cn}\p{Co}\p{Cs}\p{Zl}\p{Zp}]/gu, "\uFFFD");
}

// An element with text and attributes; children are elements or text, never HTML.
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") node.addEventListener("click", value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, String(value));
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  node.append(...children);
  return node;
}

// A line icon of 16 by 16, of path data.
function icon(path) {
  return svg("svg", { viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true" }, svg("path", { d: path }));
}

// A name in its own direction, with the whole of it as tooltip.
function nameElement(name, attributes = {}) {
  return element("bdi", { title: shown(name), ...attributes }, shown(name));
}

function plural(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

// A number in full: 7,241,732,096 or −612.4.
function formatNumber(value) {
  if (Math.abs(value) >= 1e-4 || value === 0) {
    const digits = Number.isInteger(value) ? 21 : 6;
    return value.toLocaleString("en", { maximumSignificantDigits: digits }).replace("-", "−");
  }
  return power(value, 3);
}

// A number at a tick: 7B, 0.5, 2·10⁻⁵.
function formatTick(value) {
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e15)) return power(value, 2);
  const notation = Math.abs(value) >= 1e4 ? "compact" : "standard";
  return value.toLocaleString("en", { notation, maximumSignificantDigits: 4 }).replace("-", "−");
}

function power(value, digits) {
  const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
  return `${trimZeros(mantissa)}·10${superscript(Number(exponent))}`.replace("-", "−");
}

function trimZeros(text) {
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

function superscript(exponent) {
  const digits = [...String(Math.abs(exponent))].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("");
  return (exponent < 0 ? "⁻" : "") + digits;
}

// KL with its standard error to two digits, and as many decimals for both: "0.0421 ± 0.0012".
function formatKl(kl, se) {
  if (!Number.isFinite(kl)) return "unknown";
  if (!Number.isFinite(se)) return Number(kl.toPrecision(3)).toString();
  const scale = se > 0 ? se : kl;
  const decimals = scale > 0 ? Math.min(Math.max(1 - Math.floor(Math.log10(scale)), 0), 12) : 4;
  if (kl >= 1e-4 && decimals <= 8) return `${kl.toFixed(decimals)} ± ${se.toFixed(decimals)}`;
  const exponent = Math.floor(Math.log10(Math.max(kl, se)));
  const shift = 10 ** exponent;
  const rest = Math.max(decimals + exponent, 0);
  return `(${(kl / shift).toFixed(rest)} ± ${(se / shift).toFixed(rest)})·10${superscript(exponent)}`;
}

const DAY = 86400000;

function formatDay(day) {
  return new Date(day * DAY).toISOString().slice(0, 10);
}

function formatMonth(day) {
  return new Date(day * DAY).toLocaleDateString("en", { year: "numeric", month: "short", timeZone: "UTC" });
}
