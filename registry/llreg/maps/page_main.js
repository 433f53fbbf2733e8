// The state of the page, and what each action changes.

const TRAJECTORY_COLORS = ["#d9480f", "#1c7ed6", "#2f9e44", "#ae3ec9", "#e03131", "#0c8599"];

const LAYERS = [
  ["edges", "Declared parent → child", (data) => data.edges.length > 0],
  ["trajectories", "Trajectories", (data) => data.trajectories.length > 0],
  ["ellipses", "Uncertainty: 1 SD from resampled texts", (data) => Boolean(data.ellipses)],
];

async function start() {
  const byId = (id) => document.getElementById(id);
  const data = readData();
  const state = {
    theme: "light", column: -1, sizeBy: -1, scale: 1, growth: 1, only: null, unfolded: false, picked: -1, hovered: -1, chosen: [],
    layers: { edges: false, trajectories: true, ellipses: false },
  };
  const plot = await makePlot(data, byId("plot"));
  let coloring = makeColoring(data, null);
  const theme = () => THEMES[state.theme];
  const visible = (row) => !state.only || state.only.has(coloring.codes[row]);

  // --- painting

  function paint() {
    const chosen = new Set(state.chosen);
    const strong = chosen.size ? (row) => chosen.has(row) : () => true;
    const sizes = pointSizes(data, data.columns[state.sizeBy], state.scale * state.growth);
    paintPoints(plot, { theme: theme(), colorOf: coloring.colorOf, sizes, visible, strong });
    paintLayers();
    paintPicked();
    showSelection();
  }

  function paintLayers() {
    const { edges, trajectories, ellipses } = state.layers;
    const rows = Array.from({ length: data.size }, (_, row) => row).filter(visible);
    paintLines(plot, "edges", edges ? edgeLines() : [], 5);
    paintLines(plot, "trajectories", trajectories ? trajectoryLines() : [], 5);
    if (data.ellipses) paintEllipses(plot, ellipses ? rows : [], (row) => coloring.colorOf(row, theme()));
    placeLabels();
  }

  function edgeLines() {
    const touches = ({ parent, child }) => state.picked === parent || state.picked === child;
    const faint = state.picked >= 0 ? 0.18 : data.edges.length > 2000 ? 0.25 : 0.45;
    return data.edges.filter(({ parent, child }) => visible(parent) && visible(child)).map((edge) => ({
      from: edge.parent, to: edge.child, color: touches(edge) ? theme().accent : theme().edge,
      alpha: touches(edge) ? 0.95 : faint, width: touches(edge) ? 1.8 : 1,
    }));
  }

  const trajectoryColor = (i) => TRAJECTORY_COLORS[i % TRAJECTORY_COLORS.length];

  function trajectoryLines() {
    return data.trajectories.flatMap(({ rows }, i) => rows.slice(1).map((to, step) => (
      { from: rows[step], to, color: trajectoryColor(i), alpha: 0.85, width: 2 }
    )));
  }

  function paintPicked() {
    const near = state.picked < 0 ? [] : neighborsOf(data, state.picked);
    paintLines(plot, "links", near.map(({ row }, rank) => (
      { from: state.picked, to: row, color: theme().link, alpha: 0.9 - 0.045 * rank, width: 2.2 - 0.12 * rank }
    )));
    const base = pointSizes(data, null, state.scale * state.growth)[0];
    const ring = (row, more, width) => ({ row, size: base + more, width, color: theme().accent });
    const rings = near.map(({ row }) => ring(row, 4, 1.2));
    if (state.picked >= 0) rings.push(ring(state.picked, 9, 2.6));
    if (state.hovered >= 0 && state.hovered !== state.picked) rings.push(ring(state.hovered, 6, 1.6));
    paintRings(plot, rings);
    placeLabels();
  }

  function placeLabels() {
    const labels = state.picked < 0 ? [] : [{ name: data.names[state.picked], row: state.picked, picked: true }];
    if (state.layers.trajectories) {
      data.trajectories.forEach(({ name, rows }, i) => {
        if (rows.length) labels.push({ name, row: rows[rows.length - 1], color: trajectoryColor(i) });
      });
    }
    byId("labels").replaceChildren(...labels.flatMap(labelElement));
    dropOverlaps([...byId("labels").children]);
  }

  function labelElement({ name, row, color, picked }) {
    if (!isInView(plot, row)) return [];
    const { sx, sy } = toScreen(plot, data.x[row], data.y[row]);
    const label = element("span", { class: picked ? "picked" : "" }, element("bdi", {}, shown(name)));
    if (color) label.style.color = color;
    const { left, width } = plot.frame();
    const flipped = sx > left + Math.max(width / 2, width - 260);
    label.style.transform = `translate(${sx}px, ${sy}px) translate(${flipped ? "-100%" : "0"}, -50%) translate(${flipped ? -12 : 12}px, 0)`;
    return [label];
  }

  // --- actions

  // `travel`: "always" centres on it, "needed" only if it is not well in view, "never" leaves the view alone.
  function pick(row, { travel = "needed" } = {}) {
    state.picked = row;
    renderModel(byId("model"), data, row, { pick, close: () => pick(-1) });
    if (row >= 0) {
      byId("live").textContent = shown(data.names[row]);
      byId("panel").scrollTop = 0;
      if (travel !== "never") goTo(plot, row, travel === "needed");
    }
    if (state.layers.edges) paintLayers();
    paintPicked();
    showSelection();
  }

  function colorBy(index) {
    state.column = index;
    state.only = null;
    state.unfolded = false;
    coloring = makeColoring(data, data.columns[index]);
    byId("color").value = String(index);
    paint();
    showLegend();
  }

  function toggle(codes) {
    const only = new Set(state.only ?? []);
    const on = codes.every((code) => only.has(code));
    for (const code of codes) on ? only.delete(code) : only.add(code);
    state.only = only.size ? only : null;
    paint();
    showLegend();
  }

  function showAll() {
    state.only = null;
    paint();
    showLegend();
  }

  function choose(rows) {
    state.chosen = [...rows];
    paint();
  }

  function clear() {
    source(plot, "points").selected.indices = [];
    state.chosen = [];
    state.only = null;
    pick(-1);
    paint();
    showLegend();
  }

  // Box, lasso and search choose; the legend narrows; without either it is the picked model.
  function selection() {
    if (state.chosen.length) return state.chosen.filter(visible);
    if (state.only) return Array.from({ length: data.size }, (_, row) => row).filter(visible);
    return state.picked >= 0 ? [state.picked] : [];
  }

  function showSelection() {
    const rows = selection();
    byId("selection-count").textContent = rows.length
      ? `${plural(rows.length, "model")} of ${data.size.toLocaleString("en")} selected`
      : "Nothing selected. Draw a box or a lasso on the map, click entries of the legend, or pick a model.";
    byId("save").disabled = rows.length === 0;
    byId("clear").hidden = rows.length === 0;
  }

  function showLegend() {
    const focused = [...byId("legend").querySelectorAll("button")].indexOf(document.activeElement);
    renderLegend(byId("legend"), coloring, state, data, { toggle, showAll });
    if (focused >= 0) byId("legend").querySelectorAll("button")[focused]?.focus();
  }

  function setTheme(name) {
    state.theme = name;
    document.documentElement.dataset.theme = name;
    byId("theme").setAttribute("aria-pressed", String(name === "dark"));
    themePlot(plot, theme());
    paint();
    showLegend();
  }

  // --- pointer

  function under(event) {
    return rowsUnder(plot, event, visible).map(({ row }) => row);
  }

  function hover(event) {
    const rows = event && event.buttons === 0 ? under(event) : [];
    const row = rows[0] ?? -1;
    if (row !== state.hovered) {
      state.hovered = row;
      paintPicked();
      byId("plot").style.cursor = row >= 0 ? "pointer" : "";
      if (row >= 0) renderCard(byId("card"), data, row, state, together(row).length - 1);
    }
    if (row < 0) byId("card").hidden = true;
    else {
      const { sx, sy } = toScreen(plot, data.x[row], data.y[row]);
      placeCard(byId("card"), byId("map"), sx, sy);
    }
  }

  // Rows at one and the same point, which take turns when it is clicked.
  function together(row) {
    return rowsNear(data, data.x[row], data.y[row], 0.5 * plot.unit, visible).map((found) => found.row);
  }

  function click(event) {
    const [row] = under(event);
    if (row === undefined) return;
    const stack = together(row).sort((a, b) => a - b);
    pick(stack.includes(state.picked) ? stack[(stack.indexOf(state.picked) + 1) % stack.length] : row, { travel: "never" });
  }

  function listenPointer() {
    const target = byId("plot");
    let down = null;
    let waiting = null;
    target.addEventListener("pointerdown", (event) => { down = event; hover(null); }, true);
    target.addEventListener("pointerup", (event) => {
      if (down && Math.hypot(event.clientX - down.clientX, event.clientY - down.clientY) < 5 && event.button === 0) click(event);
      down = null;
    }, true);
    target.addEventListener("pointermove", (event) => {
      if (waiting === null && event.pointerType !== "touch") requestAnimationFrame(() => { hover(waiting); waiting = null; });
      waiting = event;
    });
    target.addEventListener("pointerleave", () => hover(null));
  }

  // --- controls

  function fillChoices() {
    data.columns.forEach((column, i) => {
      byId("color").append(element("option", { value: i }, shown(column.title)));
      if (column.kind === "number") byId("size").append(element("option", { value: i }, shown(column.title)));
    });
    byId("size").prepend(element("option", { value: -1, selected: true }, "all the same"));
    byId("color-choice").hidden = data.columns.length === 0;
    byId("size-choice").hidden = byId("size").options.length === 1;
    byId("color").addEventListener("change", () => colorBy(Number(byId("color").value)));
    byId("size").addEventListener("change", () => { state.sizeBy = Number(byId("size").value); paint(); });
    byId("scale").addEventListener("input", () => { state.scale = Number(byId("scale").value); paint(); });
  }

  function fillLayers() {
    for (const [name, title, has] of LAYERS.filter(([, , has]) => has(data))) {
      const box = element("input", { type: "checkbox", id: `layer-${name}`, checked: state.layers[name] });
      box.addEventListener("change", () => { state.layers[name] = box.checked; paintLayers(); });
      byId("layers").append(element("label", {}, box, title));
      byId("layers").hidden = false;
    }
  }

  function listenPage(input) {
    byId("save").addEventListener("click", () => download("models.csv", selectionCsv(data, selection())));
    byId("select-all").addEventListener("click", () => choose(data.names.keys()));
    byId("clear").addEventListener("click", clear);
    byId("theme").append(icon("M8 2a6 6 0 1 0 0 12zM8 2a6 6 0 0 1 0 12"));
    byId("theme").addEventListener("click", () => { chosenTheme = true; setTheme(state.theme === "dark" ? "light" : "dark"); });
    document.addEventListener("keydown", (event) => {
      const typing = event.target instanceof HTMLElement && event.target.matches("input, select, textarea");
      if (event.key === "/" && !typing) {
        event.preventDefault();
        input.focus();
        input.select();
      } else if (event.key === "Escape") clear();
    });
  }

  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  let chosenTheme = false;
  dark.addEventListener("change", () => { if (!chosenTheme) setTheme(dark.matches ? "dark" : "light"); });

  // Points grow a little as one comes nearer; in steps, as each costs a painting.
  let growing = 0;
  function grow() {
    const growth = Math.min(Math.max((fullUnit(plot) / plot.unit) ** 0.3, 1), 2.2);
    if (Math.abs(growth / state.growth - 1) < 0.15) return;
    clearTimeout(growing);
    growing = setTimeout(() => { state.growth = growth; paint(); }, 120);
  }

  plot.onmove = () => { byId("card").hidden = true; placeLabels(); grow(); };
  const points = source(plot, "points");
  points.selected.properties.indices.change.connect(() => choose(points.selected.indices));

  makeTools(plot, byId("tools"));
  listenKeys(plot);
  listenPointer();
  fillChoices();
  fillLayers();
  listenPage(makeSearch(data, { pick: (row) => pick(row, { travel: "always" }), choose, clear }));
  state.theme = dark.matches ? "dark" : "light";
  colorBy(data.columns.length ? Math.max(data.columns.findIndex(({ name }) => name === data.color), 0) : -1);
  setTheme(state.theme);

  performance.mark("llreg-ready");

  // For scripts in the browser's console, and for tests.
  window.llregMap = {
    data, state, plot, pick, colorBy: (name) => colorBy(data.columns.findIndex((column) => column.name === name)), choose, clear,
    selection, selectionCsv: () => selectionCsv(data, selection()),
    screenOf: (row) => toScreen(plot, data.x[row], data.y[row]),
  };
}

start().catch((error) => {
  document.body.append(element("p", { class: "failed", role: "alert" }, `The map could not be drawn: ${error.message}`));
  throw error;
});
