// Colours and sizes of points by a column.

// Twelve colours that stay apart under normal and colour-blind sight (protanopia, deuteranopia, tritanopia after
// Machado et al. 2009), on white and on near-black; found by maximising the least distance in Oklab.
const CATEGORY_COLORS = [
  "#305fc8",
  "#f6b015",
  "#9e2f22",
  "#c75884",
  "#069af1",
  "#937226",
  "#f58271",
  "#74e78b",
  "#803594",
  "#e5a3ff",
  "#65a624",
  "#8877b8",
];

const THEMES = {
  light: {
    grid: "#eceef1",
    text: "#4a5361",
    other: "#7d8590",
    unknown: "#c4c9d0",
    dim: "#c4c9d0",
    accent: "#111827",
    link: "#1f2937",
    edge: "#475569",
    kin: "#2456c4",
    halo: "#ffffff",
  },
  dark: {
    grid: "#222933",
    text: "#a5afbd",
    other: "#8b939e",
    unknown: "#4d5561",
    dim: "#4d5561",
    accent: "#ffffff",
    link: "#e5e7eb",
    edge: "#94a3b8",
    kin: "#86aeff",
    halo: "#12161c",
  },
};

// How a column colours the points: `codes` index `entries`; `entries` are what the legend lists.
function makeColoring(data, column) {
  if (!column) return { kind: "none", colorOf: () => CATEGORY_COLORS[0] };
  return column.kind === "category" ? categoryColoring(column) : scaleColoring(data, column);
}

function categoryColoring(column) {
  const many = column.levels.length > CATEGORY_COLORS.length;
  const own = many ? CATEGORY_COLORS.length - 1 : column.levels.length;
  const colorOfCode = (code, theme) => {
    if (code === 0) return theme.unknown;
    return code <= own ? CATEGORY_COLORS[code - 1] : theme.other;
  };
  return {
    kind: "category",
    column,
    own,
    codes: column.codes,
    colorOfCode,
    colorOf: (row, theme) => colorOfCode(column.codes[row], theme),
  };
}

function scaleColoring(data, column) {
  const scale = makeScale(column);
  const colorAt = (share, theme) => data.palette[Math.round(trimmed(share, theme) * (data.palette.length - 1))];
  const colorOf = (row, theme) => {
    const value = column.values[row];
    return Number.isNaN(value) ? theme.unknown : colorAt(scale.share(value), theme);
  };
  return { kind: "scale", column, scale, colorAt, colorOf };
}

// The end of viridis that would vanish into the background is left out.
function trimmed(share, theme) {
  return theme === THEMES.dark ? 0.16 + 0.84 * share : 0.94 * share;
}

// A scale from the 1st to the 99th percentile of the known values; shares are clipped to 0 and 1.
function makeScale(column) {
  const known = Float64Array.from(column.values)
    .filter((value) => !Number.isNaN(value))
    .sort();
  const log = column.log && known.length > 0 && percentile(known, 0.01) > 0;
  let [low, high] = known.length ? [percentile(known, 0.01), percentile(known, 0.99)] : [0, 1];
  const [least, most] = known.length ? [known[0], known[known.length - 1]] : [low, high];
  if (low === high) [low, high] = log ? [low / 2, high * 2] : [low - 0.5, high + 0.5];
  const to = log ? (value) => Math.log(Math.max(value, Number.MIN_VALUE)) : (value) => value;
  const share = (value) => Math.min(Math.max((to(value) - to(low)) / (to(high) - to(low)), 0), 1);
  return { low, high, log, share, below: least < low, above: most > high, count: known.length };
}

function percentile(sorted, share) {
  const at = share * (sorted.length - 1);
  const low = Math.floor(at);
  return sorted[low] + (at - low) * (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]);
}

// Ticks of a scale: round numbers, or first days of months and years.
function scaleTicks(scale, column) {
  if (column.kind === "date") return dateTicks(scale.low, scale.high);
  const ticks = scale.log ? logTicks(scale.low, scale.high) : linearTicks(scale.low, scale.high);
  return ticks.map((value) => ({ value, text: formatTick(value) }));
}

function linearTicks(low, high, wanted = 4) {
  const rough = (high - low) / wanted;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * unit).find((size) => size >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: Math.max(last - first + 1, 0) }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

function logTicks(low, high) {
  const [from, to] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const within = (factors, stride) => {
    const ticks = [];
    for (let exponent = from; exponent <= to; exponent += stride) {
      for (const factor of factors) ticks.push(factor * 10 ** exponent);
    }
    return ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
  };
  const choices = [
    within([1, 2, 5], 1),
    within([1, 3], 1),
    within([1], 1),
    within([1], Math.ceil((to - from) / 5) || 1),
  ];
  const ticks = choices.find((choice) => choice.length <= 6) ?? choices[3];
  return ticks.length >= 2 ? ticks : linearTicks(low, high);
}

const MONTH_STEPS = [1, 2, 3, 6, 12, 24, 60, 120, 240, 600];

function dateTicks(low, high) {
  if (high - low < 60)
    return linearTicks(low, high, 3)
      .filter(Number.isInteger)
      .map((value) => ({ value, text: formatDay(value) }));
  const months = (high - low) / 30.44;
  const step = MONTH_STEPS.find((size) => months / size <= 5) ?? 1200;
  const start = new Date(low * DAY);
  const ticks = [];
  for (let month = Math.ceil((start.getUTCFullYear() * 12 + start.getUTCMonth()) / step) * step; ; month += step) {
    const value = Date.UTC(Math.floor(month / 12), month % 12, 1) / DAY;
    if (value > high) return ticks;
    if (value >= low) ticks.push({ value, text: step >= 12 ? String(Math.floor(month / 12)) : formatMonth(value) });
  }
}

// Diameter of a point, in CSS pixels: fewer points are larger.
function baseSize(data, factor) {
  return Math.min(Math.max(22 / data.size ** 0.17, 4), 12) * factor;
}

// Diameters of all points: the same, or an area by a column of numbers.
function pointSizes(data, column, factor) {
  const base = baseSize(data, factor);
  if (!column) return new Float32Array(data.size).fill(base);
  const scale = makeScale(column);
  return Float32Array.from(column.values, (value) =>
    Number.isNaN(value) ? base * 0.6 : base * Math.sqrt(0.25 + 3.5 * scale.share(value)),
  );
}
