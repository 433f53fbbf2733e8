// What a person can do: pick, choose, colour, filter; each action changes the state and paints what depends on it.

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
  for (const code of codes) {
    if (on) only.delete(code);
    else only.add(code);
  }
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

// Points grow a little as one comes nearer; in steps, as each costs a painting.
let growing = 0;

function grow() {
  const growth = Math.min(Math.max((fullUnit(plot) / plot.unit) ** 0.3, 1), 2.2);
  if (Math.abs(growth / state.growth - 1) < 0.15) return;
  clearTimeout(growing);
  growing = setTimeout(() => {
    state.growth = growth;
    paint();
  }, 120);
}
