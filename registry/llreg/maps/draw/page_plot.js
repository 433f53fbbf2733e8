// The canvas: Bokeh's figure, filled, coloured, kept at equal aspect; and where the pointer is on it.

const PICK_RADIUS = 12; // CSS pixels around the pointer
const MARGIN = 0.06; // of the map's extent, free on each side

async function makePlot(data, target) {
  const item = JSON.parse(document.getElementById("plot-json").textContent);
  const { attributes } = item.doc.roots[0];
  if (attributes.output_backend === "webgl" && !hasFastWebgl()) attributes.output_backend = "canvas";
  await Bokeh.embed.embed_item(item, target.id);
  const doc = Bokeh.documents[Bokeh.documents.length - 1];
  const figure = doc.get_model_by_name("map");
  const plot = { data, target, doc, figure, unit: 1, home: true, onmove: () => {} };
  plot.frame = () => frameOf(plot);
  for (const range of [figure.x_range, figure.y_range]) range.change.connect(() => moved(plot));
  new ResizeObserver(() => keepAspect(plot)).observe(target);
  figure.properties.inner_width.change.connect(() => keepAspect(plot));
  figure.properties.inner_height.change.connect(() => keepAspect(plot));
  fitAll(plot);
  return plot;
}

// WebGL without a graphics card is several times slower than the canvas.
function hasFastWebgl() {
  const gl = document.createElement("canvas").getContext("webgl", { failIfMajorPerformanceCaveat: true });
  const info = gl?.getExtension("WEBGL_debug_renderer_info"); // not every browser tells of the caveat
  const renderer = gl?.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : gl.RENDERER) ?? "software";
  return !/software|swiftshader|llvmpipe|softpipe|basic render/i.test(renderer);
}

function source(plot, name) {
  return plot.doc.get_model_by_name(name);
}

// The inner frame in CSS pixels of the target; axes stand left of it and below.
function frameOf({ figure }) {
  const [width, height] = [figure.inner_width || 1, figure.inner_height || 1];
  return { left: (figure.outer_width || width) - width, top: 0, width, height };
}

function setView(plot, centerX, centerY, unit) {
  const { width, height } = plot.frame();
  plot.unit = unit;
  plot.settling = true;
  plot.figure.x_range.setv({ start: centerX - (width / 2) * unit, end: centerX + (width / 2) * unit });
  plot.figure.y_range.setv({ start: centerY - (height / 2) * unit, end: centerY + (height / 2) * unit });
  plot.settling = false;
  moved(plot);
}

function center({ figure: { x_range: x, y_range: y } }) {
  return [(x.start + x.end) / 2, (y.start + y.end) / 2];
}

// Data units of a CSS pixel that show the whole map.
function fullUnit({ data, frame }) {
  const { bounds } = data.grid;
  const { width, height } = frame();
  const extent = Math.max((bounds.x1 - bounds.x0) / width, (bounds.y1 - bounds.y0) / height);
  return extent > 0 ? extent * (1 + 2 * MARGIN) : 1 / width;
}

function fitAll(plot) {
  const { bounds } = plot.data.grid;
  if (!plot.data.size) return;
  setView(plot, (bounds.x0 + bounds.x1) / 2, (bounds.y0 + bounds.y1) / 2, fullUnit(plot));
  plot.home = true;
}

function moved(plot) {
  if (plot.settling) return;
  const { x_range: x } = plot.figure;
  plot.unit = (x.end - x.start) / plot.frame().width;
  plot.home = false;
  plot.onmove();
}

// A new size keeps the centre and the scale, or the whole map if that is what is shown.
function keepAspect(plot) {
  if (plot.home) fitAll(plot);
  else setView(plot, ...center(plot), plot.unit);
}

function zoomBy(plot, factor) {
  setView(plot, ...center(plot), plot.unit / factor);
}

function panBy(plot, shareX, shareY) {
  const { width, height } = plot.frame();
  const [x, y] = center(plot);
  setView(plot, x + shareX * width * plot.unit, y + shareY * height * plot.unit, plot.unit);
}

// Centre on a row, at a scale that tells its neighbours apart; a view that shows it well already may stay.
function goTo(plot, row, mayStay) {
  const wanted = nearUnit(plot, row);
  const fine = plot.unit < 3 * wanted && plot.unit > wanted / 3;
  if (mayStay && fine && isInView(plot, row)) return;
  setView(plot, plot.data.x[row], plot.data.y[row], fine ? plot.unit : wanted);
}

// Data units of a CSS pixel at which the five nearest rows lie within a fifth of the frame.
function nearUnit(plot, row) {
  const { x, y } = plot.data;
  const far = Math.max(
    0,
    ...neighborsOf(plot.data, row)
      .slice(0, 5)
      .map((near) => Math.hypot(x[near.row] - x[row], y[near.row] - y[row])),
  );
  const { width, height } = plot.frame();
  const full = fullUnit(plot);
  return Math.min(Math.max(far / (0.22 * Math.min(width, height)), full / 40), full);
}

// Of labels that lie over each other, the first stays.
function dropOverlaps(labels) {
  const kept = [];
  for (const label of labels) {
    const box = label.getBoundingClientRect();
    const clash = kept.some(
      (other) => box.left < other.right && other.left < box.right && box.top < other.bottom && other.top < box.bottom,
    );
    if (clash) label.style.visibility = "hidden";
    else kept.push(box);
  }
}

function isInView(plot, row) {
  const { sx, sy } = toScreen(plot, plot.data.x[row], plot.data.y[row]);
  const { left, top, width, height } = plot.frame();
  return sx > left + 20 && sx < left + width - 20 && sy > top + 20 && sy < top + height - 20;
}

function toScreen(plot, x, y) {
  const { left, top } = plot.frame();
  return {
    sx: left + (x - plot.figure.x_range.start) / plot.unit,
    sy: top + (plot.figure.y_range.end - y) / plot.unit,
  };
}

// Rows under a pointer event, nearest first; empty outside the frame.
function rowsUnder(plot, event, allowed) {
  const box = plot.target.getBoundingClientRect();
  const { left, top, width, height } = plot.frame();
  const [sx, sy] = [event.clientX - box.left - left, event.clientY - box.top - top];
  if (sx < 0 || sy < 0 || sx > width || sy > height) return [];
  const { x_range: x, y_range: y } = plot.figure;
  return rowsNear(plot.data, x.start + sx * plot.unit, y.end - sy * plot.unit, PICK_RADIUS * plot.unit, allowed);
}

// Points: colour and size by row; rows that are not `visible` stay as a faint ground.
function paintPoints(plot, { theme, colorOf, sizes, visible, strong }) {
  const { data } = plot;
  const alpha = data.size > 5000 ? 0.8 : 0.9;
  const columns = {
    color: [],
    line: [],
    alpha: new Float32Array(data.size),
    size: new Float32Array(data.size),
    marker: [],
  };
  for (let row = 0; row < data.size; row += 1) {
    const on = visible(row);
    columns.color.push(on ? colorOf(row, theme) : theme.dim);
    columns.line.push(theme.halo);
    columns.alpha[row] = on ? (strong(row) ? alpha : alpha * 0.25) : 0.3;
    columns.size[row] = on ? sizes[row] : Math.min(sizes[row], 4);
    columns.marker.push(data.placed?.[row] ? "diamond" : "circle");
    if (data.placed?.[row]) columns.size[row] *= 1.6;
  }
  source(plot, "points").data = { x: data.x, y: data.y, ...columns };
}

const NO_SEGMENTS = { x0: [], y0: [], x1: [], y1: [], color: [], alpha: [], width: [] };
const NO_ARROWS = { x: [], y: [], size: [], angle: [], color: [], alpha: [] };

// Lines from row to row: {from, to, color, alpha, width}, with an arrow head past the middle where `arrows` is a size.
function paintLines(plot, name, lines, arrows = 0) {
  const { x, y } = plot.data;
  const pick = (value) => lines.map(value);
  source(plot, name).data =
    lines.length === 0
      ? NO_SEGMENTS
      : {
          x0: pick(({ from }) => x[from]),
          y0: pick(({ from }) => y[from]),
          x1: pick(({ to }) => x[to]),
          y1: pick(({ to }) => y[to]),
          color: pick(({ color }) => color),
          alpha: pick(({ alpha }) => alpha),
          width: pick(({ width }) => width),
        };
  if (!arrows) return;
  const heads = lines.filter(({ from, to }) => x[from] !== x[to] || y[from] !== y[to]);
  const at = (from, to) => from + 0.58 * (to - from);
  source(plot, `${name}-arrows`).data =
    heads.length === 0
      ? NO_ARROWS
      : {
          x: heads.map(({ from, to }) => at(x[from], x[to])),
          y: heads.map(({ from, to }) => at(y[from], y[to])),
          angle: heads.map(({ from, to }) => Math.atan2(y[to] - y[from], x[to] - x[from]) - Math.PI / 2),
          size: heads.map(({ width }) => arrows + 1.5 * width),
          color: heads.map(({ color }) => color),
          alpha: heads.map(({ alpha }) => alpha),
        };
}

function paintRings(plot, rings) {
  const { x, y } = plot.data;
  source(plot, "rings").data = {
    x: rings.map(({ row }) => x[row]),
    y: rings.map(({ row }) => y[row]),
    size: rings.map(({ size }) => size),
    color: rings.map(({ color }) => color),
    width: rings.map(({ width }) => width),
  };
}

// One-standard-deviation ellipses from (xx, xy, yy): the axes are the square roots of the eigenvalues.
function paintEllipses(plot, rows, colorOf) {
  const { x, y, ellipses } = plot.data;
  const shapes = rows.map((row) => ellipseOf(ellipses[3 * row], ellipses[3 * row + 1], ellipses[3 * row + 2]));
  source(plot, "ellipses").data = {
    x: rows.map((row) => x[row]),
    y: rows.map((row) => y[row]),
    color: rows.map(colorOf),
    width: shapes.map(({ major }) => 2 * major),
    height: shapes.map(({ minor }) => 2 * minor),
    angle: shapes.map(({ angle }) => angle),
  };
}

function ellipseOf(xx, xy, yy) {
  const middle = (xx + yy) / 2;
  const spread = Math.hypot((xx - yy) / 2, xy);
  return {
    major: Math.sqrt(Math.max(middle + spread, 0)),
    minor: Math.sqrt(Math.max(middle - spread, 0)),
    angle: Math.atan2(2 * xy, xx - yy) / 2,
  };
}

// Bokeh's own parts in the colours of the page.
function themePlot(plot, theme) {
  const { figure } = plot;
  const text = { axis_label_text_color: theme.text, major_label_text_color: theme.text, axis_line_color: theme.grid };
  const ticks = {
    major_tick_line_color: theme.grid,
    minor_tick_line_color: null,
    axis_label_text_font_style: "normal",
  };
  for (const axis of [...figure.below, ...figure.left]) axis.setv({ ...text, ...ticks });
  for (const grid of figure.center) grid.setv({ grid_line_color: plot.data.free ? null : theme.grid });
}

const TOOLS = [
  ["pan", "Move", "M8 1v14M1 8h14M6 3l2-2 2 2M6 13l2 2 2-2M3 6L1 8l2 2M13 6l2 2-2 2"],
  ["box", "Select in a box", "M2 5V2h3M11 2h3v3M14 11v3h-3M5 14H2v-3M7 2h2M7 14h2M2 7v2M14 7v2"],
  ["lasso", "Select with a lasso", "M8 2c4 0 6 2 6 4s-2 4-6 4-6-2-6-4 2-4 6-4M5 9.500c-2 1-1.500 3 0 3s1 2-1 2"],
];

const MOVES = [
  ["Zoom in", "M8 3v10M3 8h10", (plot) => zoomBy(plot, 1.5)],
  ["Zoom out", "M3 8h10", (plot) => zoomBy(plot, 1 / 1.5)],
  ["Show all", "M2 6V2h4M10 2h4v4M14 10v4h-4M6 14H2v-4", fitAll],
];

function makeTools(plot, bar) {
  const buttons = TOOLS.map(([name, title, path]) => {
    const button = element(
      "button",
      { class: "icon", title, "aria-label": title, "aria-pressed": name === "pan" },
      icon(path),
    );
    button.addEventListener("click", () => useTool(plot, name));
    plot.doc.get_model_by_name(name).properties.active.change.connect(() => showTool());
    return button;
  });
  const showTool = () =>
    TOOLS.forEach(([name], i) => {
      buttons[i].setAttribute("aria-pressed", String(plot.doc.get_model_by_name(name).active));
    });
  const moves = MOVES.map(([title, path, act]) =>
    element("button", { class: "icon", title, "aria-label": title, onclick: () => act(plot) }, icon(path)),
  );
  bar.append(...buttons, element("span", { class: "gap" }), ...moves);
}

function useTool(plot, name) {
  plot.doc.get_model_by_name(name).active = true;
}

const KEYS = {
  ArrowLeft: (plot) => panBy(plot, -0.1, 0),
  ArrowRight: (plot) => panBy(plot, 0.1, 0),
  ArrowUp: (plot) => panBy(plot, 0, 0.1),
  ArrowDown: (plot) => panBy(plot, 0, -0.1),
  "+": (plot) => zoomBy(plot, 1.5),
  "=": (plot) => zoomBy(plot, 1.5),
  "-": (plot) => zoomBy(plot, 1 / 1.5),
  0: fitAll,
};

function listenKeys(plot) {
  plot.target.addEventListener("keydown", (event) => {
    if (!KEYS[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    KEYS[event.key](plot);
    event.preventDefault();
  });
}
