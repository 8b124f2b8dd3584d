// A table of any length: only the rows on the screen are elements, and only their parts are asked for.

import { h, fill, add } from "./dom.js";
import { count, visible } from "./format.js";

const HEIGHT = 30; // pixels of a row
const PART = 100; // rows asked for at once
const TALLEST = 8_000_000; // pixels; browsers draw no element that is much taller

// `columns`: {key, name, title, number, width, cell(row), sort}; `load(offset, limit)` gives {names, rows, total}.
export class BigTable {
  constructor({ columns, load, open, label, sort, onSort }) {
    Object.assign(this, { columns, load, open, sort, onSort });
    this.parts = new Map();
    this.total = 0;
    this.first = 0;
    this.chosen = -1;
    this.generation = 0;
    this.body = h("div", { class: "rows", role: "rowgroup" });
    this.space = h("div", { class: "space", role: "presentation" }, this.body);
    this.head = h("div", { class: "head", role: "rowgroup" });
    this.view = h("div", {
      class: "big", role: "grid", tabindex: "0", "aria-label": label, "aria-colcount": columns.length,
      on: { scroll: () => this.scrolled(), keydown: (event) => this.key(event), click: (event) => this.click(event) },
    }, this.head, this.space);
    this.summary = h("p", { class: "dim", role: "status" });
    this.element = h("div", { class: "bigbox" }, this.view, this.summary);
    this.watch = new ResizeObserver(() => this.draw());
    this.watch.observe(this.view);
    this.drawHead();
  }

  get widths() {
    return this.columns.map((column) => column.width ?? "minmax(80px, 1fr)").join(" ");
  }

  drawHead() {
    const name = (this.sort ?? "").replace("-", "");
    const cells = this.columns.map((column) => {
      const sorted = column.key === name ? ((this.sort ?? "").startsWith("-") ? "descending" : "ascending") : "none";
      const mark = sorted === "none" ? "" : sorted === "ascending" ? " ▲" : " ▼";
      const text = column.sort === false ? column.name : h("button", { class: "plain", title: column.title ?? "Sort", on: { click: () => this.sortBy(column) } }, column.name, mark);
      return h("div", { role: "columnheader", class: column.number ? "number" : null, "aria-sort": column.sort === false ? null : sorted }, text);
    });
    fill(this.head, h("div", { class: "row", role: "row", "aria-rowindex": 1, style: { "grid-template-columns": this.widths } }, cells));
  }

  sortBy(column) {
    const first = column.number ? `-${column.key}` : column.key;
    const other = column.number ? column.key : `-${column.key}`;
    this.sort = this.sort === first ? other : this.sort === other ? "" : first;
    this.drawHead();
    this.onSort(this.sort);
  }

  // Forgets all rows and asks again; with `keep`, the old rows stay until the new ones are there, and the place too.
  async refresh({ keep = false } = {}) {
    this.generation += 1;
    if (!keep) {
      this.chosen = -1;
      this.view.scrollTop = 0;
    }
    const generation = this.generation;
    const parts = keep ? [...new Set(this.visible().map((index) => Math.floor(index / PART)))] : [0];
    const found = await Promise.all((parts.length ? parts : [0]).map((part) => this.load(part * PART, PART).then((answer) => [part, answer])));
    if (generation !== this.generation) return;
    this.parts = new Map(found.map(([part, answer]) => [part, named(answer)]));
    this.total = found[0][1].total;
    this.leftOut = found[0][1].left_out ?? 0;
    this.asked = new Set();
    this.size();
    if (this.start) {
      this.chosen = this.start.chosen;
      this.view.scrollTop = this.start.top;
      this.start = null;
    }
    this.draw();
  }

  place() {
    return { top: this.view.scrollTop, chosen: this.chosen };
  }

  size() {
    this.scale = Math.max(1, (this.total * HEIGHT) / TALLEST);
    this.space.style.height = `${Math.min(this.total * HEIGHT, TALLEST)}px`;
    this.view.setAttribute("aria-rowcount", this.total + 1);
    fill(this.summary, this.total ? `${count(this.total)} rows` : "no rows", this.leftOut ? `; ${count(this.leftOut)} more are in the record, and not in this page` : "");
  }

  get fitting() {
    return Math.ceil(Math.max(120, this.view.clientHeight - HEIGHT) / HEIGHT) + 1;
  }

  visible() {
    const first = Math.min(this.first, Math.max(0, this.total - 1));
    const last = Math.min(this.total, first + this.fitting + 1);
    return Array.from({ length: Math.max(0, last - first) }, (_, index) => first + index);
  }

  scrolled() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = null;
      this.draw();
    });
  }

  draw() {
    if (!this.scale) return;
    const top = this.view.scrollTop;
    this.first = Math.max(0, Math.floor((top * this.scale) / HEIGHT));
    if (this.scale > 1) this.first = Math.min(this.first, Math.max(0, this.total - this.fitting + 2));
    const offset = this.scale > 1 ? top - (((top * this.scale) / HEIGHT) % 1) * HEIGHT : this.first * HEIGHT;
    this.body.style.transform = `translateY(${offset}px)`;
    const missing = new Set();
    const rows = this.visible().map((index) => {
      const part = Math.floor(index / PART);
      const row = this.parts.get(part)?.[index % PART];
      if (!row) missing.add(part);
      return this.row(index, row);
    });
    this.body.replaceChildren(...rows);
    for (const part of missing) this.fetch(part);
  }

  row(index, row) {
    const chosen = index === this.chosen;
    const cells = this.columns.map((column) =>
      h("div", { role: "gridcell", class: column.number ? "number" : null }, row ? column.cell(row) : "…"));
    return h("div", {
      class: `row${chosen ? " chosen" : ""}`, role: "row", id: `row-${index}`, "aria-rowindex": index + 2, "aria-selected": chosen ? "true" : null,
      data: { index }, style: { "grid-template-columns": this.widths },
    }, cells);
  }

  async fetch(part) {
    if (this.asked.has(part)) return;
    this.asked.add(part);
    const generation = this.generation;
    try {
      const answer = await this.load(part * PART, PART);
      if (generation !== this.generation) return;
      this.parts.set(part, named(answer));
      if (this.parts.size > 60) this.parts.delete(this.parts.keys().next().value);
      this.draw();
    } finally {
      this.asked.delete(part);
    }
  }

  at(index) {
    return this.parts.get(Math.floor(index / PART))?.[index % PART];
  }

  click(event) {
    const row = event.target.closest?.(".rows .row");
    if (!row || event.target.closest("a")) return;
    this.choose(Number(row.dataset.index));
    this.enter();
  }

  enter() {
    const row = this.at(this.chosen);
    if (row) this.open?.(row);
  }

  choose(index) {
    if (!this.total) return;
    this.chosen = Math.max(0, Math.min(this.total - 1, index));
    const place = (this.chosen * HEIGHT) / this.scale;
    const height = this.view.clientHeight - HEIGHT;
    if (place < this.view.scrollTop) this.view.scrollTop = place;
    else if (place + HEIGHT > this.view.scrollTop + height) this.view.scrollTop = place + HEIGHT - height;
    this.view.setAttribute("aria-activedescendant", `row-${this.chosen}`);
    this.draw();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("button")) return;
    const page = Math.max(1, this.fitting - 3);
    const steps = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key in steps) this.choose(this.chosen < 0 && steps[event.key] === -1 ? 0 : Math.max(-1, this.chosen) + steps[event.key]);
    else if (event.key === "Enter") this.enter();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

function named({ names, rows }) {
  return rows.map((row) => Object.fromEntries(names.map((name, index) => [name, row[index]])));
}

// A row of filters. `fields`: {key, name, choices | text | box}; `changed(query)` is called with what is chosen.
export function filters(fields, query, changed) {
  let timer;
  const set = (key, value) => {
    query[key] = value;
    clearTimeout(timer);
    timer = setTimeout(() => changed(query), typeof value === "string" && key === "search" ? 200 : 0);
  };
  const made = fields.map((field) => {
    if (field.box) {
      return h("label", { class: "box", title: field.title }, h("input", { type: "checkbox", checked: Boolean(query[field.key]), on: { change: (event) => set(field.key, event.target.checked ? "true" : "") } }), field.name);
    }
    if (field.text) {
      return h("label", { class: "search" }, h("span", { class: "hidden" }, field.name),
        h("input", { type: "search", placeholder: field.name, value: query[field.key] ?? "", data: { search: "" }, on: { input: (event) => set(field.key, event.target.value) } }));
    }
    const given = [["", `${field.name}: all`], ...field.choices.map((one) => (Array.isArray(one) ? one : [one, one]))];
    if (query[field.key] && !given.some(([value]) => value === query[field.key])) given.push([query[field.key], query[field.key]]);
    const options = given.map(([value, name]) => {
      const option = h("option", { value }, cut(name, 60));
      option.selected = value === (query[field.key] ?? "");
      return option;
    });
    return h("select", { "aria-label": field.name, on: { change: (event) => set(field.key, event.target.value) } }, options);
  });
  return add(h("div", { class: "filters", role: "search" }), made);
}

export function cut(text, most) {
  const signs = [...visible(text)];
  return signs.length > most ? `${signs.slice(0, most - 1).join("")}…` : signs.join("");
}
