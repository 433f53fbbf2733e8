// The legend of a category column, or the colour bar of a number or date.

const LISTED = 300; // entries shown under "other" at most

// `actions.toggle(codes)` shows only these entries, or hides them again; `actions.showAll()` shows all.
function renderLegend(box, coloring, state, data, actions) {
  box.replaceChildren();
  if (coloring.kind === "category") box.append(...categoryLegend(coloring, state, actions));
  if (coloring.kind === "scale") box.append(...colorBar(coloring, state, data));
  if (data.placed) box.append(markerLegend());
}

function categoryLegend(coloring, state, actions) {
  const { column, own } = coloring;
  const entry = (code) =>
    legendEntry(shown(column.levels[code - 1]), column.counts[code], [code], coloring, state, actions);
  const list = element("ul", { class: "legend", "aria-label": `Colours of ${shown(column.title)}` });
  for (let code = 1; code <= own; code += 1) list.append(entry(code));
  const rest = column.levels.map((_, i) => i + 1).slice(own);
  if (rest.length) list.append(...otherEntries(rest, entry, coloring, state, actions));
  if (column.counts[0]) list.append(legendEntry("unknown", column.counts[0], [0], coloring, state, actions));
  if (!state.only) return [list];
  return [list, element("button", { class: "plain", onclick: actions.showAll }, "Show all")];
}

function otherEntries(rest, entry, coloring, state, actions) {
  const { column } = coloring;
  const count = rest.reduce((sum, code) => sum + column.counts[code], 0);
  const nested = element("ul", {}, ...rest.slice(0, LISTED).map(entry));
  if (rest.length > LISTED)
    nested.append(element("li", { class: "more" }, `and ${plural(rest.length - LISTED, "more kind")}`));
  const details = element(
    "details",
    { open: state.unfolded },
    element("summary", {}, `${plural(rest.length, "kind")} in other`),
    nested,
  );
  details.addEventListener("toggle", () => {
    state.unfolded = details.open;
  });
  const whole = legendEntry("other", count, rest, coloring, state, actions);
  return [whole, element("li", {}, details)];
}

function legendEntry(name, count, codes, coloring, state, actions) {
  const theme = THEMES[state.theme];
  const on = state.only ? codes.every((code) => state.only.has(code)) : true;
  const swatch = svg(
    "svg",
    { viewBox: "0 0 10 10", width: 10, height: 10, "aria-hidden": "true" },
    svg("circle", { cx: 5, cy: 5, r: 5, fill: coloring.colorOfCode(codes[0], theme) }),
  );
  const button = element(
    "button",
    { "aria-pressed": Boolean(state.only) && on, class: on ? "entry" : "entry off", title: name },
    swatch,
    element("bdi", { class: "name" }, name),
    element("span", { class: "count" }, count.toLocaleString("en")),
  );
  button.addEventListener("click", () => actions.toggle(codes));
  return element("li", {}, button);
}

// A bar from low to high with ticks; ends are pointed where values lie beyond them.
function colorBar(coloring, state, data) {
  const { column, scale } = coloring;
  if (!scale.count) return [element("p", { class: "note" }, `No model here has a known ${shown(column.title)}.`)];
  const theme = THEMES[state.theme];
  const stops = Array.from({ length: 24 }, (_, i) => coloring.colorAt(i / 23, theme));
  const ends = `${scale.below ? "low" : ""} ${scale.above ? "high" : ""}`;
  const bar = element("div", { class: `bar ${ends}` });
  bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  const ticks = element("div", { class: "ticks" });
  for (const { value, text } of fitting(scaleTicks(scale, column), scale)) {
    const tick = element("span", {}, text);
    tick.style.left = `${100 * scale.share(value)}%`;
    ticks.append(tick);
  }
  const unit = [shown(column.title), column.unit && `(${shown(column.unit)})`, scale.log && "· log"]
    .filter(Boolean)
    .join(" ");
  const figure = element(
    "figure",
    { class: "scale", role: "img", "aria-label": `Colour bar of ${unit}` },
    histogram(coloring, theme),
    bar,
    ticks,
    element("figcaption", {}, unit),
  );
  return [figure, ...scaleNotes(coloring, data, theme)];
}

// Ticks whose labels do not run into each other.
function fitting(ticks, scale) {
  let end = -Infinity;
  return ticks.filter(({ value, text }) => {
    const [at, half] = [300 * scale.share(value), 3.6 * text.length];
    if (at - half < end) return false;
    end = at + half + 6;
    return true;
  });
}

const BINS = 40;

function histogram(coloring, theme) {
  const { column, scale } = coloring;
  const counts = new Array(BINS).fill(0);
  for (const value of column.values) {
    if (!Number.isNaN(value)) counts[Math.min(Math.floor(scale.share(value) * BINS), BINS - 1)] += 1;
  }
  const most = Math.max(...counts);
  const bars = counts.map((count, i) =>
    svg("rect", {
      x: i + 0.08,
      width: 0.84,
      y: 20 - (20 * count) / most,
      height: (20 * count) / most,
      fill: coloring.colorAt((i + 0.5) / BINS, theme),
    }),
  );
  return svg(
    "svg",
    { class: "histogram", viewBox: `0 0 ${BINS} 20`, preserveAspectRatio: "none", "aria-hidden": "true" },
    ...bars,
  );
}

function scaleNotes({ column, scale }, data, theme) {
  const notes = [];
  const text = (value) => (column.kind === "date" ? formatDay(value) : formatTick(Number(value.toPrecision(3))));
  const clipped = [scale.below && `≤ ${text(scale.low)}`, scale.above && `≥ ${text(scale.high)}`].filter(Boolean);
  if (clipped.length)
    notes.push(element("p", { class: "note" }, `One colour each: ${clipped.join(" and ")} (1st and 99th percentile).`));
  const unknown = data.size - scale.count;
  if (unknown) {
    const swatch = element("span", { class: "swatch" });
    swatch.style.background = theme.unknown;
    notes.push(element("p", { class: "note" }, swatch, `unknown: ${unknown.toLocaleString("en")}`));
  }
  return notes;
}

function markerLegend() {
  const shape = (tag, attributes) =>
    svg("svg", { viewBox: "0 0 12 12", width: 12, height: 12, "aria-hidden": "true" }, svg(tag, attributes));
  return element(
    "p",
    { class: "markers" },
    shape("circle", { cx: 6, cy: 6, r: 4 }),
    "made with the map",
    shape("path", { d: "M6 0l4 6-4 6-4-6z" }),
    "placed into it later",
  );
}
