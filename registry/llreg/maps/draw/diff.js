// The page of two models: texts coloured by who predicts them better where. All text is set as text, never as HTML.

const BATCH = 1200; // segments drawn at a time
const SIDES = ["first", "second"];

const byId = (id) => document.getElementById(id);
const state = {
  subset: -1,
  scale: 1,
  mode: "difference",
  order: "share",
  queue: [],
  drawn: 0,
  current: null,
  found: null,
};

let data;

function readData() {
  const raw = JSON.parse(byId("diff-json").textContent);
  const segments = Object.fromEntries(Object.entries(raw.segments).map(([name, values]) => [name, unpack(values)]));
  segments.difference = segments.first.map((value, k) => value - segments.second[k]);
  const [index, subset, count] = [raw.texts.index, raw.texts.subset, raw.texts.count].map(unpack);
  let at = 0;
  const texts = Array.from(index, (number, i) => {
    const text = { number, subset: subset[i], from: at, to: at + count[i], pieces: raw.texts.pieces[i], element: null };
    at = text.to;
    const sum = (values) => values.subarray(text.from, text.to).reduce((total, value) => total + value, 0);
    text.bytes = sum(segments.size);
    text.share = sum(segments.share);
    text.nats = [sum(segments.first), sum(segments.second)];
    return text;
  });
  return { ...raw, names: raw.names.map(shown), segments, texts };
}

// Nats at which a colour is full: the 98th percentile of the segments of some texts, as a round number.
function makeScale(texts) {
  const values = data.segments[state.mode];
  const sizes = Float32Array.from(
    texts.flatMap(({ from, to }) => Array.from(values.subarray(from, to), Math.abs)),
  ).sort();
  const wanted = sizes[Math.floor(0.98 * (sizes.length - 1))] || 1;
  const unit = 10 ** Math.floor(Math.log10(wanted));
  return [1, 2, 3, 5, 10].map((factor) => factor * unit).find((size) => size >= wanted * 0.999);
}

const bits = (nats, bytes) => -nats / Math.LN2 / bytes;

function percent(share) {
  const value = 100 * share;
  if (value >= 0.95) return `${value >= 99.95 ? "100" : value.toFixed(1)} %`;
  return `${value >= 0.095 ? value.toFixed(2) : value.toLocaleString("en", { maximumSignificantDigits: 1 })} %`;
}

function signed(value, digits = 2) {
  return `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(digits)}`;
}

function key(side, name) {
  return element("span", {}, element("i", { class: `key ${SIDES[side]}` }), element("bdi", { title: name }, name));
}

// --- what stands around the texts

function showHead() {
  const { names, kl, mark, bits: cost, numTexts } = data;
  byId("names").append(key(0, names[0]), element("span", { class: "and" }, " and "), key(1, names[1]));
  byId("whole").append(
    `KL ${formatKl(...kl)} ${BIT_BYTE}${mark ? ` (${mark})` : ""}, from segments of ${plural(numTexts, "text")}; the first model takes ` +
      `${cost[0].toFixed(4)} ${BIT_BYTE}, the second ${cost[1].toFixed(4)}`,
  );
  if (mark) byId("whole").title = `${mark}: more than a text takes either model, so it is a distance only`;
  byId("order").options[1].textContent = `best for ${shortName(0)}`;
  byId("order").options[2].textContent = `best for ${shortName(1)}`;
}

// The last part of a name, where that tells the two apart.
function shortName(side) {
  const [own, other] = [data.names[side], data.names[1 - side]].map((name) => name.split("/").pop());
  return own === other ? data.names[side] : own;
}

function showTabs() {
  const all = { name: "all", texts: data.numTexts, share: 1, bits: data.bits };
  const tab = ({ name, texts, share, bits: cost }, i) => {
    const bar = element("i");
    bar.style.width = `${100 * share}%`;
    const values = cost.map((value, side) =>
      element("span", { class: value < cost[1 - side] ? `${SIDES[side]}-ink` : "" }, value.toFixed(3)),
    );
    return element(
      "button",
      { role: "tab", id: `tab-${i}`, "aria-controls": "panel", onclick: () => chooseSubset(i) },
      nameElement(name, { class: "name" }),
      element("span", { class: "share" }, percent(share)),
      element("span", { class: "track" }, bar),
      element("span", { class: "bits" }, `${plural(texts, "text")} · `, values[0], " : ", values[1], ` ${BIT_BYTE}`),
    );
  };
  const subsets = data.subsets.map((subset, i) => ({ subset, i })).sort((a, b) => b.subset.share - a.subset.share);
  byId("tabs").append(tab(all, -1), ...(subsets.length > 1 ? subsets.map(({ subset, i }) => tab(subset, i)) : []));
  byId("tabs").addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const tabs = [...byId("tabs").children];
    const next = tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
    next.focus();
    next.click();
  });
}

function showLegend() {
  const ticks = [1, 0.5, 0, 0.5, 1].map((part, i) => {
    const tick = element(
      "span",
      {},
      part === 0 ? "0 nats" : `${part === 1 ? "≥ " : ""}${formatTick(part * state.scale)}`,
    );
    tick.style.left = `${25 * i}%`;
    return tick;
  });
  const what = state.mode === "difference" ? "better" : "better, less drift";
  const end = (side) => element("span", {}, key(side, shortName(side)), ` ${what}`);
  byId("legend").replaceChildren(
    element("div", { class: "ends" }, end(0), end(1)),
    element("div", { class: "scale" }),
    element("div", { class: "ticks", "aria-hidden": "true" }, ...ticks),
  );
}

function showPart() {
  const subset = data.subsets[state.subset];
  const parts = subset
    ? [
        element("b", {}, shown(subset.name)),
        `: ${percent(subset.share)} of the KL, in ${plural(subset.texts, "text")}` +
          (subset.kl[0] === null ? "" : `; within it KL ${formatKl(subset.kl[0], subset.kl[1] ?? NaN)} ${BIT_BYTE}`),
      ]
    : [plural(data.numTexts, "text")];
  if (data.texts.length < data.numTexts) {
    const held = `${data.texts.length.toLocaleString("en")} of ${data.numTexts.toLocaleString("en")}`;
    parts.push(`; this page holds the ${held} texts that carry most: ${percent(data.shownShare)}`);
  }
  byId("part").replaceChildren(...parts);
}

function showWidest() {
  const byNumber = new Map(data.texts.map((text) => [text.number, text]));
  const items = data.spans.map(([number, start, end, difference, share]) => {
    const text = byNumber.get(number);
    const side = difference < 0 ? 1 : 0;
    const passage = text?.pieces ? between(text, start, end) : `bytes ${start}–${end}`;
    const label = `Text ${number}, bytes ${start}–${end}: ${percent(share)} of the KL`;
    const button = element(
      "button",
      { title: label, disabled: !text, onclick: () => goTo(text, start, end) },
      element("span", { class: `nats ${SIDES[side]}-ink` }, signed(difference, 1)),
      element("code", {}, passage.trim().replace(/\s+/g, " ") || "␣"),
      element("span", { class: "where" }, percent(share)),
    );
    return element("li", {}, button);
  });
  byId("widest").hidden = !items.length;
  byId("widest")
    .querySelector("ol")
    .append(...items);
  byId("widest").open = window.innerWidth > 820;
}

function between(text, start, end) {
  let at = 0;
  return text.pieces
    .filter((_, i) => {
      const first = at;
      at += data.segments.size[text.from + i];
      return first >= start && first < end;
    })
    .join("");
}

// --- texts

const ORDERS = {
  share: (a, b) => b.share - a.share,
  first: (a, b) => b.nats[0] - b.nats[1] - (a.nats[0] - a.nats[1]),
  second: (a, b) => a.nats[0] - a.nats[1] - (b.nats[0] - b.nats[1]),
  index: (a, b) => a.number - b.number,
};

function restart() {
  hideCard();
  state.queue = data.texts
    .filter(({ subset }) => state.subset < 0 || subset === state.subset)
    .sort(ORDERS[state.order]);
  state.drawn = 0;
  state.scale = makeScale(state.queue);
  showLegend();
  byId("list").replaceChildren();
  for (const tab of byId("tabs").children) {
    const selected = tab.id === `tab-${state.subset}`;
    tab.setAttribute("aria-selected", selected);
    tab.tabIndex = selected ? 0 : -1;
  }
  byId("panel").setAttribute("aria-labelledby", `tab-${state.subset}`);
  showPart();
  drawMore();
}

function drawMore() {
  let segments = 0;
  while (state.drawn < state.queue.length && segments < BATCH) {
    const text = state.queue[state.drawn];
    byId("list").append(textElement(text));
    segments += text.to - text.from;
    state.drawn += 1;
  }
  const rest = state.queue.length - state.drawn;
  byId("more").hidden = rest === 0;
  byId("end").querySelector("span").textContent = rest ? `${plural(rest, "text")} more` : "";
}

function textElement(text) {
  const { segments } = data;
  const body = element("div", { class: text.pieces ? "text" : "text absent", dir: "auto", tabindex: 0 });
  let start = 0;
  for (let k = text.from; k < text.to; k += 1) {
    const end = start + segments.size[k];
    const piece = text.pieces ? text.pieces[k - text.from] : `${start}–${end}`;
    const node = element("span", {}, ...(piece.trim() ? [piece] : blankNodes(piece)));
    Object.assign(node, { llreg: { text, segment: k, start, end } });
    paint(node);
    body.append(node);
    start = end;
  }
  const values = text.nats.map((nats) => bits(nats, text.bytes));
  const better = values[0] <= values[1] ? 0 : 1;
  const head = element(
    "h3",
    {},
    element("b", {}, `Text ${text.number}`),
    data.subsets.length > 1 && nameElement(data.subsets[text.subset].name),
    element("span", {}, `${percent(text.share)} of the KL`),
    element("span", {}, plural(text.bytes, "byte")),
    element(
      "span",
      { title: "what each model takes" },
      ...values.flatMap((value, side) => [
        side ? " : " : "",
        element("span", { class: side === better ? `${SIDES[side]}-ink` : "" }, value.toFixed(3)),
      ]),
      ` ${BIT_BYTE}`,
    ),
  );
  text.element = element("article", { "aria-label": `Text ${text.number}` }, head);
  if (!text.pieces)
    text.element.append(
      element("p", { class: "absent-note" }, "This text is not copied here (its licence forbids it): bytes only."),
    );
  text.element.append(body);
  return text.element;
}

// Blanks that are a segment of their own are shown, or there would be nothing to point at.
function blankNodes(piece) {
  return [...piece].map((char) => {
    if (char === "\n") return element("span", { class: "blank" }, "↵\n");
    return char === " " ? element("span", { class: "blank" }, "·") : char;
  });
}

function paint(node) {
  const value = data.segments[state.mode][node.llreg.segment];
  node.classList.toggle("first", value > 0);
  node.classList.toggle("second", value < 0);
  node.style.setProperty("--strength", `${(100 * Math.min(Math.abs(value) / state.scale, 1)).toFixed(1)}%`);
}

// --- one segment

function showCard(node, fixed = false) {
  state.current?.classList.remove("current");
  state.current = node;
  if (fixed) node.classList.add("current");
  const { text, segment, start, end } = node.llreg;
  const { first, second, difference, deviation, share } = data.segments;
  const better = difference[segment] >= 0 ? 0 : 1;
  const line = (...children) => children;
  byId("card").replaceChildren(
    element("p", {}, `Text ${text.number}, bytes ${start}–${end}`),
    element(
      "dl",
      {},
      ...[first, second].flatMap((values, side) =>
        line(element("dt", {}, key(side, data.names[side])), element("dd", {}, `${signed(values[segment])} nats`)),
      ),
      element("dt", { class: "sum" }, difference[segment] ? `${shortName(better)} better by` : "no difference"),
      element("dd", { class: `sum ${SIDES[better]}-ink` }, `${Math.abs(difference[segment]).toFixed(2)} nats`),
    ),
    element(
      "p",
      {},
      `first less second, less drift: ${signed(deviation[segment])} nats; ${percent(share[segment])} of the KL`,
    ),
  );
  byId("card").hidden = false;
  const [box] = [...node.getClientRects()].sort((a, b) => b.width - a.width); // a line break alone has no width
  const card = byId("card").getBoundingClientRect();
  const left = Math.min(Math.max(box.left, 8), document.documentElement.clientWidth - card.width - 8);
  const below = box.bottom + 8;
  const top = below + card.height > window.innerHeight - 8 ? Math.max(box.top - card.height - 8, 8) : below;
  byId("card").style.transform = `translate(${left}px, ${top}px)`;
}

function hideCard() {
  byId("card").hidden = true;
  state.current?.classList.remove("current");
  state.current = null;
}

const segmentAt = (target) => target.closest?.(".text > span") ?? null;

function listenSegments() {
  const list = byId("list");
  list.addEventListener("pointerover", (event) => {
    const node = segmentAt(event.target);
    if (event.pointerType === "mouse" && node) showCard(node);
  });
  list.addEventListener("pointerout", (event) => {
    if (event.pointerType === "mouse" && !segmentAt(event.relatedTarget ?? document.body)) hideCard();
  });
  document.addEventListener("click", (event) => {
    const node = segmentAt(event.target);
    if (node) showCard(node, true);
    else if (!event.target.closest("#card, #widest")) hideCard();
  });
  list.addEventListener("keydown", (event) => {
    const step = { ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling" }[event.key];
    const body = event.target.closest(".text");
    if (!step || !body) return;
    event.preventDefault();
    const next = state.current?.parentElement === body ? state.current[step] : body.firstElementChild;
    if (next) showCard(next, true);
  });
  window.addEventListener("scroll", () => !state.current?.classList.contains("current") && hideCard(), {
    passive: true,
  });
}

function goTo(text, start, end) {
  if (state.subset >= 0 && text.subset !== state.subset) chooseSubset(-1);
  while (!state.queue.slice(0, state.drawn).includes(text)) drawMore();
  for (const node of document.querySelectorAll(".found")) node.classList.remove("found");
  const nodes = [...text.element.querySelector(".text").children].filter(
    ({ llreg }) => llreg.start >= start && llreg.start < end,
  );
  for (const node of nodes) node.classList.add("found");
  nodes[0].scrollIntoView({ block: "center" });
  showCard(nodes[0], true);
}

// --- choices

function chooseSubset(subset) {
  state.subset = subset;
  restart();
  if (byId("panel").getBoundingClientRect().top < 0) byId("panel").scrollIntoView();
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  byId("theme").setAttribute("aria-pressed", name === "dark");
}

function start() {
  data = readData();
  showHead();
  showTabs();
  showWidest();
  listenSegments();
  restart();
  byId("mode").addEventListener("change", () => {
    state.mode = byId("mode").value;
    state.scale = makeScale(state.queue);
    showLegend();
    hideCard();
    for (const node of document.querySelectorAll(".text > span")) paint(node);
  });
  byId("order").addEventListener("change", () => {
    state.order = byId("order").value;
    restart();
  });
  byId("more").addEventListener("click", drawMore);
  new IntersectionObserver((entries) => entries.some(({ isIntersecting }) => isIntersecting) && drawMore(), {
    rootMargin: "600px",
  }).observe(byId("end"));
  document.addEventListener("keydown", (event) => event.key === "Escape" && hideCard());
  byId("theme").append(icon("M8 2a6 6 0 1 0 0 12zM8 2a6 6 0 0 1 0 12"));
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  byId("theme").setAttribute("aria-pressed", dark.matches);
  byId("theme").addEventListener("click", () => {
    setTheme(byId("theme").getAttribute("aria-pressed") === "true" ? "light" : "dark");
  });
  window.llregDiff = { data, state, goTo, chooseSubset }; // for scripts in the browser's console, and for tests
}

start();
