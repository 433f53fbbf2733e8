// What is shown now: the state of the page, and how it is painted on the map.

const TRAJECTORY_COLORS = ["#d9480f", "#1c7ed6", "#2f9e44", "#ae3ec9", "#e03131", "#0c8599"];

const state = {
  theme: "light", // or "dark"
  themeChosen: false, // by the button, against the system
  column: -1, // index of the column that colours the points
  sizeBy: -1, // index of the column that sets their size; -1: all the same
  scale: 1, // of all points, by the slider
  growth: 1, // of all points, by the zoom
  only: null, // set of the category codes that the legend shows; null: all
  unfolded: false, // whether the legend lists what is in "other"
  picked: -1, // row; -1: none
  hovered: -1,
  chosen: [], // rows of a box, a lasso or a search
  layers: { edges: false, trajectories: true, ellipses: false },
};

let data;
let plot;
let coloring;

const byId = (id) => document.getElementById(id);
const theme = () => THEMES[state.theme];
const visible = (row) => !state.only || state.only.has(coloring.codes[row]);

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
  return data.edges
    .filter(({ parent, child }) => visible(parent) && visible(child))
    .map((edge) => ({
      from: edge.parent,
      to: edge.child,
      color: touches(edge) ? theme().kin : theme().edge,
      alpha: touches(edge) ? 0.95 : faint,
      width: touches(edge) ? 1.8 : 1,
    }));
}

const trajectoryColor = (i) => TRAJECTORY_COLORS[i % TRAJECTORY_COLORS.length];

function trajectoryLines() {
  return data.trajectories.flatMap(({ rows }, i) =>
    rows.slice(1).map((to, step) => ({ from: rows[step], to, color: trajectoryColor(i), alpha: 0.85, width: 2 })),
  );
}

function paintPicked() {
  const near = state.picked < 0 ? [] : neighborsOf(data, state.picked);
  paintLines(
    plot,
    "links",
    near.map(({ row }, rank) => ({
      from: state.picked,
      to: row,
      color: theme().link,
      alpha: 0.9 - 0.045 * rank,
      width: 2.2 - 0.12 * rank,
    })),
  );
  const base = baseSize(data, state.scale * state.growth);
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
  const place = `translate(${sx}px, ${sy}px)`;
  label.style.transform = flipped ? `${place} translate(-100%, -50%) translateX(-12px)` : `${place} translate(12px, -50%)`;
  return [label];
}
