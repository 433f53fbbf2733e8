// What stands beside the map: the search's list, the model that is picked, the card under the pointer.

const FOUND_SHOWN = 60;
const RELATIVES_SHOWN = 40;

// A search box as a combobox: arrows move in the list, Enter picks, Escape clears.
function makeSearch(data, { pick, choose, clear }) {
  const [input, box, list] = ["query", "found", "results"].map((id) => document.getElementById(id));
  const search_ = { rows: [], active: -1 };
  const show = () => {
    search_.rows = search(data, input.value);
    search_.active = search_.rows.length ? 0 : -1;
    renderFound(data, input.value, search_, list, (row) => done(row));
    box.hidden = !input.value.trim();
    input.setAttribute("aria-expanded", String(!box.hidden));
    mark();
  };
  const mark = () => {
    [...list.children].forEach((option, i) => option.setAttribute("aria-selected", String(i === search_.active)));
    const option = list.children[search_.active];
    option?.scrollIntoView({ block: "nearest" });
    if (option) input.setAttribute("aria-activedescendant", option.id);
    else input.removeAttribute("aria-activedescendant");
  };
  const hide = () => {
    box.hidden = true;
    input.setAttribute("aria-expanded", "false");
  };
  const done = (row) => {
    hide();
    pick(row);
  };
  const move = (step) => {
    const last = Math.min(search_.rows.length, FOUND_SHOWN) - 1;
    search_.active = Math.min(Math.max(search_.active + step, 0), last);
    mark();
  };
  const keys = {
    ArrowDown: () => (box.hidden ? show() : move(1)),
    ArrowUp: () => move(-1),
    Enter: () => {
      if (search_.active >= 0) done(search_.rows[search_.active]);
    },
    Escape: () => {
      if (input.value) {
        input.value = "";
        show();
      } else {
        input.blur();
        clear();
      }
    },
  };
  input.addEventListener("input", show);
  input.addEventListener("focus", () => {
    if (input.value) show();
  });
  input.addEventListener("keydown", (event) => {
    if (!keys[event.key]) return;
    keys[event.key]();
    event.preventDefault();
    event.stopPropagation();
  });
  box.parentElement.addEventListener("focusout", (event) => {
    if (!box.parentElement.contains(event.relatedTarget)) hide();
  });
  box.addEventListener("mousedown", (event) => event.preventDefault()); // keeps the focus in the box
  document.getElementById("select-found").addEventListener("click", () => {
    hide();
    choose(search_.rows);
  });
  return input;
}

function renderFound(data, text, { rows }, list, pick) {
  const query = text.trim().toLowerCase();
  list.replaceChildren(
    ...rows.slice(0, FOUND_SHOWN).map((row, i) => {
      const option = element(
        "div",
        { role: "option", id: `found-${i}`, title: shown(data.names[row]) },
        foundName(data, row, query),
      );
      option.addEventListener("click", () => pick(row));
      return option;
    }),
  );
  const more = rows.length > FOUND_SHOWN ? `; the first ${FOUND_SHOWN} shown` : "";
  document.getElementById("found-count").textContent = rows.length
    ? `${plural(rows.length, "model")}${more}`
    : "No model of that name";
  document.getElementById("select-found").hidden = rows.length === 0;
}

function foundName(data, row, query) {
  const name = data.names[row];
  const at = data.lower[row].indexOf(query);
  if (at < 0 || name.length !== data.lower[row].length) return element("bdi", {}, shown(name));
  const [before, match, after] = [name.slice(0, at), name.slice(at, at + query.length), name.slice(at + query.length)];
  return element("bdi", {}, shown(before), element("mark", {}, shown(match)), shown(after));
}

// The picked model: address, neighbours, relatives, trajectories, all its columns.
function renderModel(box, data, row, { pick, close }) {
  box.hidden = row < 0;
  box.replaceChildren();
  if (row < 0) return;
  const closing = element(
    "button",
    { class: "icon", "aria-label": "Close", title: "Close", onclick: close },
    icon("M4 4l8 8M12 4l-8 8"),
  );
  box.append(
    element("div", { class: "top" }, element("h2", {}, nameElement(data.names[row])), closing),
    address(data, row),
  );
  box.append(
    ...neighborList(data, row, pick),
    ...relatives(data, row, pick),
    ...paths(data, row, pick),
    values(data, row),
  );
}

function address(data, row) {
  const line = element("p", { class: "address" });
  const link = data.links[row];
  if (link) line.append(element("a", { href: link, target: "_blank", rel: "noopener noreferrer" }, "Model page ↗"));
  const copy = element("button", { class: "plain", "aria-label": "Copy the row id" }, "Copy");
  copy.addEventListener("click", () => copyText(data.ids[row], copy));
  line.append(
    element("span", { class: "id" }, element("code", { title: shown(data.ids[row]) }, shown(data.ids[row])), copy),
  );
  return line;
}

async function copyText(text, button) {
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = element("textarea", {}, text);
    document.body.append(area);
    area.select();
    done = document.execCommand("copy");
    area.remove();
  }
  button.textContent = done ? "Copied" : "Not copied";
  setTimeout(() => {
    button.textContent = "Copy";
  }, 1500);
}

function rowButton(data, row, pick, ...more) {
  return element(
    "button",
    { class: "row", onclick: () => pick(row), "data-row": row },
    nameElement(data.names[row], { class: "name" }),
    ...more,
  );
}

function neighborList(data, row, pick) {
  const found = neighborsOf(data, row);
  if (!found.length) return [];
  const most = Math.max(...found.map(({ kl, se }) => kl + (se || 0)), Number.MIN_VALUE);
  const list = element(
    "ol",
    { class: "neighbors" },
    ...found.map((near) =>
      element(
        "li",
        {},
        rowButton(
          data,
          near.row,
          pick,
          whisker(near, most),
          element("span", { class: "kl" }, formatKl(near.kl, near.se)),
        ),
      ),
    ),
  );
  const title = element("h3", {}, "Nearest models", element("span", {}, `KL ± SE, ${BIT_BYTE}`));
  return [title, list];
}

// KL as a bar, with a line of one standard error to each side.
function whisker({ kl, se }, most) {
  const x = (value) => Math.min(Math.max((100 * value) / most, 0), 100);
  return svg(
    "svg",
    { class: "whisker", viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { x: 0, y: 1, width: x(kl || 0), height: 2 }),
    svg("line", { x1: x(kl - se || 0), x2: x(kl + se || 0), y1: 2, y2: 2 }),
  );
}

function relatives(data, row, pick) {
  const parents = data.edges.filter((edge) => edge.child === row).map(({ parent, relation }) => [parent, relation]);
  const children = data.edges.filter((edge) => edge.parent === row).map(({ child, relation }) => [child, relation]);
  const section = (title, found) =>
    found.length === 0
      ? []
      : [
          element("h3", {}, title, element("span", {}, found.length > 1 ? String(found.length) : "")),
          element(
            "ul",
            { class: "relatives" },
            ...found
              .slice(0, RELATIVES_SHOWN)
              .map(([other, relation]) =>
                element(
                  "li",
                  {},
                  rowButton(data, other, pick, element("span", { class: "relation" }, shown(relation))),
                ),
              ),
          ),
          found.length > RELATIVES_SHOWN
            ? element("p", { class: "note" }, `and ${found.length - RELATIVES_SHOWN} more`)
            : null,
        ].filter(Boolean);
  return [...section("Declared parent", parents), ...section("Declared children", children)];
}

function paths(data, row, pick) {
  return data.trajectories
    .filter(({ rows }) => rows.includes(row))
    .flatMap(({ name, rows }) => {
      const at = rows.indexOf(row);
      const step = (to, text) =>
        element("button", { disabled: rows[to] === undefined, onclick: () => pick(rows[to]) }, text);
      return [
        element("h3", {}, "Trajectory", element("span", {}, `${at + 1} of ${rows.length}`)),
        element(
          "div",
          { class: "path" },
          nameElement(name, { class: "name" }),
          step(at - 1, "← Before"),
          step(at + 1, "After →"),
        ),
      ];
    });
}

function values(data, row) {
  const list = element("dl", { class: "values" });
  for (const column of data.columns) list.append(...valuePair(column, row));
  if (data.placed?.[row])
    list.append(element("div", {}, element("dt", {}, "on the map"), element("dd", {}, "placed into it later")));
  return list;
}

function valuePair(column, row) {
  const text = valueText(column, row);
  return [
    element(
      "div",
      {},
      element("dt", { title: shown(column.title) }, shown(column.title)),
      element("dd", { class: text === null ? "unknown" : "" }, element("bdi", {}, text ?? "unknown")),
    ),
  ];
}

const CARD_COLUMNS = 4;

// The card beside the pointer: name, the colouring column and the first others, the nearest model.
function renderCard(card, data, row, state, more) {
  const main = [data.columns[state.column], ...data.columns.filter((_, i) => i !== state.column)]
    .filter(Boolean)
    .slice(0, CARD_COLUMNS);
  const list = element("dl", { class: "values" });
  for (const column of main) list.append(...valuePair(column, row));
  card.replaceChildren(element("strong", {}, element("bdi", {}, shown(data.names[row]))), list);
  const [near] = neighborsOf(data, row);
  if (near) {
    card.append(
      element("p", {}, "nearest ", element("bdi", { class: "name" }, shown(data.names[near.row]))),
      element("p", { class: "kl" }, `${formatKl(near.kl, near.se)} ${BIT_BYTE}`),
    );
  }
  if (more)
    card.append(element("p", { class: "note" }, `${plural(more, "more model")} here: click again for the next`));
}

// Beside the point, on the side where there is room.
function placeCard(card, area, sx, sy) {
  card.hidden = false;
  const { width, height } = card.getBoundingClientRect();
  const left = sx + 16 + width > area.clientWidth ? sx - 16 - width : sx + 16;
  const top = Math.min(Math.max(sy - height / 2, 4), area.clientHeight - height - 4);
  card.style.left = `${Math.max(left, 4)}px`;
  card.style.top = `${Math.max(top, 4)}px`;
}
