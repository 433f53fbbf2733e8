// Controls and pointer, and the start of it all.

const LAYERS = [
  ["edges", "Declared parent → child", () => data.edges.length > 0],
  ["trajectories", "Trajectories", () => data.trajectories.length > 0],
  ["ellipses", "Uncertainty: 1 SD from resampled texts", () => Boolean(data.ellipses)],
];

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
  pick(stack.includes(state.picked) ? stack[(stack.indexOf(state.picked) + 1) % stack.length] : row, {
    travel: "never",
  });
}

function listenPointer() {
  const target = byId("plot");
  let down = null;
  let waiting = null;
  target.addEventListener(
    "pointerdown",
    (event) => {
      down = event;
      hover(null);
    },
    true,
  );
  target.addEventListener(
    "pointerup",
    (event) => {
      if (down && Math.hypot(event.clientX - down.clientX, event.clientY - down.clientY) < 5 && event.button === 0)
        click(event);
      down = null;
    },
    true,
  );
  target.addEventListener("pointermove", (event) => {
    if (waiting === null && event.pointerType !== "touch")
      requestAnimationFrame(() => {
        if (waiting) hover(waiting);
        waiting = null;
      });
    waiting = event;
  });
  target.addEventListener("pointerleave", () => {
    waiting = null;
    hover(null);
  });
}

function fillChoices() {
  data.columns.forEach((column, i) => {
    byId("color").append(element("option", { value: i }, shown(column.title)));
    if (column.kind === "number") byId("size").append(element("option", { value: i }, shown(column.title)));
  });
  byId("size").prepend(element("option", { value: -1, selected: true }, "all the same"));
  byId("color-choice").hidden = data.columns.length === 0;
  byId("size-choice").hidden = byId("size").options.length === 1;
  byId("color").addEventListener("change", () => colorBy(Number(byId("color").value)));
  byId("size").addEventListener("change", () => {
    state.sizeBy = Number(byId("size").value);
    paint();
  });
  byId("scale").addEventListener("input", () => {
    state.scale = Number(byId("scale").value);
    paint();
  });
}

function fillLayers() {
  for (const [name, title] of LAYERS.filter(([, , has]) => has())) {
    const box = element("input", { type: "checkbox", id: `layer-${name}`, checked: state.layers[name] });
    box.addEventListener("change", () => {
      state.layers[name] = box.checked;
      paintLayers();
    });
    byId("layers").append(element("label", {}, box, title));
    byId("layers").hidden = false;
  }
}

function listenPage(input) {
  byId("save").addEventListener("click", () => download("models.csv", selectionCsv(data, selection())));
  byId("select-all").addEventListener("click", () => choose(data.names.keys()));
  byId("clear").addEventListener("click", clear);
  byId("theme").append(icon("M8 2a6 6 0 1 0 0 12zM8 2a6 6 0 0 1 0 12"));
  byId("theme").addEventListener("click", () => {
    state.themeChosen = true;
    setTheme(state.theme === "dark" ? "light" : "dark");
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target instanceof HTMLElement && event.target.matches("input, select, textarea");
    if (event.key === "/" && !typing) {
      event.preventDefault();
      input.focus();
      input.select();
    } else if (event.key === "Escape") clear();
  });
}

// The system's theme, until the button is used.
function followSystemTheme() {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", () => {
    if (!state.themeChosen) setTheme(dark.matches ? "dark" : "light");
  });
  state.theme = dark.matches ? "dark" : "light";
}

function listenPlot() {
  plot.onmove = () => {
    byId("card").hidden = true;
    placeLabels();
    grow();
  };
  const points = source(plot, "points");
  points.selected.properties.indices.change.connect(() => choose(points.selected.indices));
}

async function start() {
  data = readData();
  plot = await makePlot(data, byId("plot"));
  followSystemTheme();
  makeTools(plot, byId("tools"));
  listenKeys(plot);
  listenPlot();
  listenPointer();
  fillChoices();
  fillLayers();
  listenPage(makeSearch(data, { pick: (row) => pick(row, { travel: "always" }), choose, clear }));
  const first = data.columns.findIndex(({ name }) => name === data.color);
  colorBy(data.columns.length ? Math.max(first, 0) : -1);
  setTheme(state.theme);
  performance.mark("llreg-ready");
  // For scripts in the browser's console, and for tests.
  window.llregMap = {
    data,
    state,
    plot,
    pick,
    choose,
    clear,
    selection,
    colorBy: (name) => colorBy(data.columns.findIndex((column) => column.name === name)),
    selectionCsv: () => selectionCsv(data, selection()),
    screenOf: (row) => toScreen(plot, data.x[row], data.y[row]),
  };
}

start().catch((error) => {
  document.body.append(
    element("p", { class: "failed", role: "alert" }, `The map could not be drawn: ${error.message}`),
  );
  throw error;
});
