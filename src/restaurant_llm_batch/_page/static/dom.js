// Elements, made without markup: every text goes in as a text node, whatever it holds.

// Returns an element. `given` may have class, on (listeners), data, style (properties) and attributes.
export function h(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [kind, listener] of Object.entries(value)) element.addEventListener(kind, listener);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "style") for (const [property, one] of Object.entries(value)) element.style.setProperty(property, one);
    else if (name === "value" || name === "checked" || name === "disabled") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  add(element, children);
  return element;
}

export function add(element, children) {
  for (const child of children.flat(9)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

export function fill(element, ...children) {
  element.replaceChildren();
  return add(element, children);
}

export const link = (address, ...children) => h("a", { href: address }, ...children);

export function card(title, ...children) {
  return h("section", { class: "card" }, title && h("h2", {}, title), ...children);
}

// A table of few rows. Columns: {name, title, number, cell}.
export function smallTable(columns, rows, caption) {
  const head = columns.map((column) => h("th", { scope: "col", class: column.number && "number", title: column.title }, column.name));
  const body = rows.map((row) =>
    h("tr", {}, columns.map((column) => h("td", { class: column.number && "number" }, column.cell(row)))),
  );
  return h("div", { class: "scroll" },
    h("table", { class: "small" }, caption && h("caption", {}, caption), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)));
}

export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

export function legend(entries) {
  return h("ul", { class: "legend" }, entries.map(([name, tone]) => h("li", {}, h("span", { class: `swatch tone-${tone}` }), name)));
}

export function badge(outcome) {
  const words = outcome ?? "open";
  return h("span", { class: `badge tone-${/^[a-z]+$/.test(words) ? words : "none"}` }, words);
}
