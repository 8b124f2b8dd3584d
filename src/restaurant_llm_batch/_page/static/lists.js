// The tables of items and of calls, with their filters.

import { h, fill, badge } from "./dom.js";
import { count, short, seconds, cost, idText } from "./format.js";
import { BigTable, filters, cut } from "./table.js";

const ITEM_OUTCOMES = ["succeeded", "failed", "open"];
const CALL_OUTCOMES = ["ok", "refused", "failed", "late", "cancelled", "stored", "open"];
const PRESETS = [["Input order", ""], ["Slowest", "-seconds"], ["Costliest", "-cost"], ["Most waiting", "-waited"], ["Most tries", "-tries"]];

class ListView {
  constructor(context, table) {
    this.context = context;
    this.query = { ...context.params };
    this.table = new BigTable({
      columns: this.columns(), label: table, sort: this.query.sort ?? "",
      load: (offset, limit) => context.source.rows(table, context.run, this.query, offset, limit),
      open: (row) => row.place !== null && context.openItem(row.place),
      onSort: (sort) => this.changed({ ...this.query, sort }),
    });
    this.bar = h("div", {});
    this.element = h("div", { class: "list" }, this.bar, this.table.element);
  }

  async update() {
    if (!this.choices) {
      this.choices = await this.context.source.ask("choices", { run: this.context.run });
      this.drawBar();
    }
    await this.table.refresh({ keep: this.loaded });
    this.loaded = true;
  }

  drawBar() {
    const useful = this.fields().filter((field) => !field.choices || field.choices.length);
    fill(this.bar, filters(useful, this.query, (query) => this.changed(query)), this.presets?.());
  }

  changed(query) {
    this.query = Object.fromEntries(Object.entries(query).filter(([, value]) => value));
    this.context.setParams(this.query);
    this.table.sort = this.query.sort ?? "";
    this.table.drawHead();
    if (this.presets) this.drawPresets();
    this.table.refresh().catch(this.context.fail);
  }

  textsBox() {
    return this.context.source.live && this.context.texts() ? [{ key: "texts", name: "in texts too", title: "Search reviews, answers and results too", box: true }] : [];
  }

  causeField() {
    return this.query.cause ? [{ key: "cause", name: "cause", choices: [this.query.cause] }] : [];
  }
}

export class Items extends ListView {
  constructor(context) {
    super(context, "items");
  }

  columns() {
    const { context } = this;
    return [
      { key: "place", name: "#", title: "Place in the input, from 0", number: true, width: "70px", cell: (row) => count(row.place) },
      { key: "id", name: "item", width: "minmax(120px, 1.4fr)", cell: (row) => h("a", { href: context.address(`item/${row.place}`), title: idText(row.id), tabindex: "-1" }, cut(idText(row.id), 80)) },
      { key: "outcome", name: "outcome", width: "104px", cell: (row) => badge(row.outcome) },
      { key: "seconds", name: "time", title: "From its entry into the window to its end", number: true, width: "96px", cell: (row) => seconds(row.ended === null || row.started === null ? null : row.ended - row.started) },
      { key: "waited", name: "waited", title: "Its calls, for slots, limits per minute and to be made again", number: true, width: "96px", cell: (row) => seconds(row.waited) },
      { key: "calls", name: "calls", title: "Attempts", number: true, width: "64px", cell: (row) => count(row.calls) },
      { key: "tries", name: "tries", title: "Most attempts of one call", number: true, width: "64px", cell: (row) => count(row.tries) },
      { key: "prompt_tokens", name: "read", title: "Tokens that the model read", number: true, width: "76px", cell: (row) => short(row.prompt_tokens) },
      { key: "completion_tokens", name: "written", title: "Tokens that the model wrote", number: true, width: "80px", cell: (row) => short(row.completion_tokens) },
      { key: "cost", name: "cost", number: true, width: "84px", cell: (row) => cost(row.cost) },
      { key: "error", name: "error", width: "minmax(140px, 3fr)", cell: (row) => (row.error ? h("span", { title: cut(row.error, 1000) }, `${row.stage}: ${cut(row.error, 200)}`) : "") },
    ];
  }

  fields() {
    return [
      { key: "search", name: "Search id, label, model, error", text: true }, ...this.textsBox(),
      { key: "outcome", name: "outcome", choices: ITEM_OUTCOMES },
      { key: "stage", name: "failed at", choices: this.choices.item_stage },
      { key: "error_type", name: "error", choices: this.choices.item_error_type },
      { key: "label", name: "label", choices: this.choices.label },
      ...(this.choices.model.length > 1 ? [{ key: "model", name: "model", choices: this.choices.model }] : []),
      ...this.causeField(),
      { key: "again", name: "tried again", title: "Only items with a call that was made again", box: true },
    ];
  }

  presets() {
    this.buttons = h("div", { class: "bar-row", role: "group", "aria-label": "Order" });
    this.drawPresets();
    return this.buttons;
  }

  drawPresets() {
    fill(this.buttons, PRESETS.map(([name, sort]) =>
      h("button", { "aria-pressed": String((this.query.sort ?? "") === sort), on: { click: () => this.changed({ ...this.query, sort }) } }, name)));
  }
}

export class Calls extends ListView {
  constructor(context) {
    super(context, "calls");
  }

  columns() {
    const { context } = this;
    return [
      { key: "number", name: "#", title: "In the order of their starts", number: true, width: "76px", cell: (row) => count(row.number) },
      { key: "id", name: "item", width: "minmax(100px, 1fr)", cell: (row) => (row.place === null ? "(shared)" : h("a", { href: context.address(`item/${row.place}`), tabindex: "-1", title: idText(row.id) }, cut(idText(row.id), 60))) },
      { key: "label", name: "label", width: "minmax(100px, 1fr)", cell: (row) => h("span", { title: row.label }, cut(row.label, 60)) },
      { key: "model", name: "model", width: "minmax(80px, 1fr)", cell: (row) => row.model ?? "" },
      { key: "attempt", name: "try", number: true, width: "52px", cell: (row) => count(row.attempt) },
      { key: "outcome", name: "outcome", width: "104px", cell: (row) => badge(row.outcome) },
      { key: "started", name: "began", title: "Since the run began", number: true, width: "96px", cell: (row) => seconds(row.started) },
      { key: "seconds", name: "time", number: true, width: "90px", cell: (row) => seconds(row.ended === null ? null : row.ended - row.started) },
      { key: "waited", name: "waited", title: "For a slot, a limit per minute and to be made again", number: true, width: "90px", cell: (row) => seconds(row.slot_seconds + row.rate_seconds + row.retry_seconds) },
      { key: "prompt_tokens", name: "read", number: true, width: "72px", cell: (row) => short(row.prompt_tokens) },
      { key: "completion_tokens", name: "written", number: true, width: "78px", cell: (row) => short(row.completion_tokens) },
      { key: "cost", name: "cost", number: true, width: "80px", cell: (row) => cost(row.cost) },
      { key: "error", name: "error", width: "minmax(140px, 2fr)", cell: (row) => (row.error ? h("span", { title: cut(row.error, 1000) }, cut(row.error, 200)) : "") },
    ];
  }

  fields() {
    return [
      { key: "search", name: "Search id, label, model, error", text: true }, ...this.textsBox(),
      { key: "outcome", name: "outcome", choices: CALL_OUTCOMES },
      { key: "stage", name: "stage", choices: this.choices.stage },
      { key: "label", name: "label", choices: this.choices.label },
      ...(this.choices.model.length > 1 ? [{ key: "model", name: "model", choices: this.choices.model }] : []),
      { key: "error_type", name: "error", choices: this.choices.call_error_type },
      ...this.causeField(),
      { key: "again", name: "made again", title: "Only attempts after the first", box: true },
    ];
  }
}
