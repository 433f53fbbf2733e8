// The map's data, decoded from the JSON in the page; rows are counted from 0 and columns keep the scene's order.

function readData() {
  const raw = JSON.parse(document.getElementById("map-json").textContent);
  const xy = unpack(raw.xy);
  const size = raw.names.length;
  const data = {
    ...raw,
    size,
    x: Float32Array.from({ length: size }, (_, i) => xy[2 * i]),
    y: Float32Array.from({ length: size }, (_, i) => xy[2 * i + 1]),
    lower: raw.names.map((name) => name.toLowerCase()),
    columns: raw.columns.map(readColumn),
    ellipses: raw.ellipses && unpack(raw.ellipses),
    placed: raw.placed && unpack(raw.placed),
    neighbors: {
      k: raw.neighbors.k,
      rows: unpack(raw.neighbors.rows),
      kl: unpack(raw.neighbors.kl),
      se: unpack(raw.neighbors.se),
    },
  };
  data.edges = readEdges(raw.edges);
  data.grid = makeGrid(data);
  return data;
}

function readColumn(column) {
  if (column.kind !== "category") return { ...column, values: unpack(column.values) };
  const codes = unpack(column.codes);
  const counts = new Array(column.levels.length + 1).fill(0);
  for (const code of codes) counts[code] += 1;
  return { ...column, codes, counts };
}

function readEdges({ parent, child, relation, relations }) {
  const [parents, children, codes] = [unpack(parent), unpack(child), unpack(relation)];
  return Array.from(parents, (row, i) => ({ parent: row, child: children[i], relation: relations[codes[i]] }));
}

// The value of a column as people read it; null where unknown.
function valueText(column, row) {
  if (column.kind === "category") return column.codes[row] ? shown(column.levels[column.codes[row] - 1]) : null;
  const value = column.values[row];
  if (Number.isNaN(value)) return null;
  if (column.kind === "date") return formatDay(value);
  return formatNumber(value) + (column.unit ? ` ${shown(column.unit)}` : "");
}

// The value as tables hold it: "" where unknown.
function valueCell(column, row) {
  if (column.kind === "category") return column.codes[row] ? column.levels[column.codes[row] - 1] : "";
  const value = column.values[row];
  if (Number.isNaN(value)) return "";
  return column.kind === "date" ? formatDay(value) : String(value);
}

// Nearest rows of a row, nearest first.
function neighborsOf(data, row) {
  const { k, rows, kl, se } = data.neighbors;
  const found = [];
  for (let i = row * k; i < (row + 1) * k; i += 1) {
    if (rows[i]) found.push({ row: rows[i] - 1, kl: kl[i], se: se[i] });
  }
  return found;
}

// Rows whose name holds the text, whatever the case; names that begin with it, or whose last part does, come first.
function search(data, text) {
  const query = text.trim().toLowerCase();
  if (!query) return [];
  const [first, second, rest] = [[], [], []];
  data.lower.forEach((name, row) => {
    const at = name.indexOf(query);
    if (at < 0) return;
    if (at === 0) first.push(row);
    else if (name.startsWith(query, name.lastIndexOf("/") + 1)) second.push(row);
    else rest.push(row);
  });
  return [...first, ...second, ...rest];
}

// Points in square cells of the plane, so that the pointer finds its point among thousands.
function makeGrid({ x, y, size }) {
  const bounds = { x0: Infinity, x1: -Infinity, y0: Infinity, y1: -Infinity };
  for (let i = 0; i < size; i += 1) {
    bounds.x0 = Math.min(bounds.x0, x[i]);
    bounds.x1 = Math.max(bounds.x1, x[i]);
    bounds.y0 = Math.min(bounds.y0, y[i]);
    bounds.y1 = Math.max(bounds.y1, y[i]);
  }
  const cell = Math.max(bounds.x1 - bounds.x0, bounds.y1 - bounds.y0, 1e-12) / Math.max(Math.sqrt(size), 1);
  const cells = new Map();
  for (let i = 0; i < size; i += 1) {
    const key = cellKey(Math.floor((x[i] - bounds.x0) / cell), Math.floor((y[i] - bounds.y0) / cell));
    if (cells.has(key)) cells.get(key).push(i);
    else cells.set(key, [i]);
  }
  return { bounds, cell, cells };
}

function cellKey(column, line) {
  return column * 65536 + line;
}

// Rows within `radius` of a place, nearest first.
function rowsNear({ x, y, grid }, atX, atY, radius, allowed) {
  const { bounds, cell, cells } = grid;
  const clamp = (value, low, high) => Math.floor((Math.min(Math.max(value, low), high) - low) / cell);
  const [c0, c1] = [clamp(atX - radius, bounds.x0, bounds.x1), clamp(atX + radius, bounds.x0, bounds.x1)];
  const [l0, l1] = [clamp(atY - radius, bounds.y0, bounds.y1), clamp(atY + radius, bounds.y0, bounds.y1)];
  const found = [];
  for (let column = c0; column <= c1; column += 1) {
    for (let line = l0; line <= l1; line += 1) {
      for (const row of cells.get(cellKey(column, line)) ?? []) {
        const distance = Math.hypot(x[row] - atX, y[row] - atY);
        if (distance <= radius && allowed(row)) found.push({ row, distance });
      }
    }
  }
  return found.sort((a, b) => a.distance - b.distance || a.row - b.row);
}
