// A selection as CSV (RFC 4180), safe to open in a spreadsheet.

const PLAIN_NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

// A cell: quoted where it must be, and with a leading ' where a spreadsheet would run it as a formula.
function csvCell(value) {
  let text = String(value);
  if (/^[=+\-@\t\r\n]/.test(text) && !PLAIN_NUMBER.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function selectionCsv(data, rows) {
  const header = ["row_id", "name", "x", "y", ...data.columns.map(({ name }) => name)];
  const lines = rows.map((row) => [
    data.ids[row],
    data.names[row],
    shortest(data.x[row]),
    shortest(data.y[row]),
    ...data.columns.map((column) => valueCell(column, row)),
  ]);
  return [header, ...lines].map((cells) => `${cells.map(csvCell).join(",")}\r\n`).join("");
}

// The shortest decimal that is the same float32.
function shortest(value) {
  for (let digits = 6; digits < 9; digits += 1) {
    const text = value.toPrecision(digits);
    if (Math.fround(Number(text)) === value) return String(Number(text));
  }
  return String(Number(value.toPrecision(9)));
}

function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  const link = element("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
