// Numbers, times and ids as people read them.

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

export const count = (number) => (number === null || number === undefined ? "–" : whole.format(number));

export function short(number) {
  if (number === null || number === undefined) return "–";
  const size = Math.abs(number);
  for (const [least, sign] of [[1e9, " G"], [1e6, " M"], [1e4, " k"]]) {
    if (size >= least) return `${trimmed(number / (sign === " k" ? 1e3 : least))}${sign}`;
  }
  return size >= 100 || Number.isInteger(number) ? whole.format(number) : trimmed(number);
}

function trimmed(number) {
  const size = Math.abs(number);
  return String(Number(number.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 4)));
}

export function seconds(number) {
  if (number === null || number === undefined) return "–";
  if (number === 0) return "0 s";
  if (number < 0.001) return `${trimmed(number * 1e6)} µs`;
  if (number < 1) return `${trimmed(number * 1e3)} ms`;
  if (number < 60) return `${trimmed(number)} s`;
  if (number < 3600) return `${Math.floor(number / 60)} min ${String(Math.floor(number % 60)).padStart(2, "0")} s`;
  const hours = Math.floor(number / 3600);
  return `${whole.format(hours)} h ${String(Math.floor((number % 3600) / 60)).padStart(2, "0")} min`;
}

export function cost(number) {
  if (number === null || number === undefined) return "–";
  if (number === 0) return "0";
  return Math.abs(number) >= 100 ? whole.format(number) : String(Number(number.toPrecision(3)));
}

export function percent(part, all) {
  if (!all) return "–";
  const share = (100 * part) / all;
  return `${share > 0 && share < 0.1 ? "<0.1" : share < 10 ? Number(share.toFixed(1)) : Math.round(share)} %`;
}

// An id, from its JSON; a number of any length stays as it is written.
export function idText(written) {
  if (written === null || written === undefined || written === "null") return "(no id)";
  const text = written.startsWith('"') ? JSON.parse(written) : written;
  return text === "" ? "(empty)" : visible(text);
}

// A text on one line, with escapes for signs that nobody sees and that turn the text after them around.
export function visible(text) {
  return String(text).replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g, (sign) =>
    /[\t\n\r]/.test(sign) ? " " : `\\u${sign.codePointAt(0).toString(16).padStart(4, "0")}`);
}

export function moment(iso) {
  const date = new Date(iso ?? "");
  if (Number.isNaN(date.getTime())) return "–";
  const two = (number) => String(number).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

export function plural(number, one, many) {
  return `${count(number)} ${number === 1 ? one : many ?? `${one}s`}`;
}

// A value of a setting or of a figure.
export function plain(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "number") return Number.isInteger(value) ? count(value) : String(Number(value.toPrecision(6)));
  if (typeof value === "object") return JSON.stringify(value);
  return String(value);
}
