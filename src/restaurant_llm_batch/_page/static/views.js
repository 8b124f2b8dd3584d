// The smaller views: failures by cause, distributions, limits over time, and the comparison of two runs.

import { h, fill, card, smallTable, colour } from "./dom.js";
import { count, short, seconds, percent, plain, plural } from "./format.js";
import { histogramChart, timeChart, TONES } from "./charts.js";
import { clock } from "./timeline.js";
import { cut } from "./table.js";

export class Failures {
  constructor(context) {
    this.context = context;
    this.element = h("div", {});
  }

  async update() {
    const { source, run } = this.context;
    const [causes, overview] = await Promise.all([source.ask("causes", { run }), source.ask("overview", { run })]);
    // A question for the valid form of an answer has this label: tasks/_asking.py.
    const repairs = (overview.groups ?? []).filter((one) => one.label === "repair").reduce((all, one) => all + one.calls + one.stored, 0);
    const part = (title, found, view, what, outcome) => card(title, found.causes.length
      ? h("ul", { class: "causes" }, found.causes.map((one) => this.cause(one, view, what, outcome)))
      : h("p", { class: "dim" }, "none"),
    found.left_out ? h("p", { class: "dim" }, `${count(found.left_out)} more, of rarer causes, are not listed`) : null);
    fill(this.element,
      part("Failed items, by cause", causes.items, "items", "item", "failed"),
      causes.calls && part("Calls that were refused, failed or late, by cause", causes.calls, "calls", "call", null),
      repairs ? card("Answers that were invalid", h("p", {}, h("a", { class: "value", href: this.context.address("calls", { label: "repair" }) }, plural(repairs, "call")), " with the label repair: the model was asked again for the form that its answer lacked. Open one to see the answer and what was wrong with it, if texts are recorded.")) : null);
  }

  cause(one, view, what, outcome) {
    const query = { cause: one.cause, stage: one.stage, outcome };
    const [type, ...rest] = one.cause.split(": ");
    return h("li", {},
      h("p", {}, h("a", { class: "value", href: this.context.address(view, query) }, plural(one.count, what)), h("span", { class: `badge tone-${one.error_type === "RateLimited" ? "refused" : "failed"}` }, one.error_type ?? type), h("span", { class: "dim" }, `at ${one.stage}`, one.labels ? ` in ${one.labels.replaceAll(",", ", ")}` : "", one.began === null ? "" : `, from ${seconds(one.began)} to ${seconds(one.ended)}`)),
      h("p", { class: "mono" }, rest.join(": ") || one.cause),
      one.example && one.example !== one.cause ? h("details", {}, h("summary", {}, "An example"), h("pre", {}, one.example)) : null);
  }
}

export class Distributions {
  constructor(context) {
    this.context = context;
    this.element = h("div", {});
  }

  async update() {
    const { source, run } = this.context;
    const data = await source.ask("distributions", { run });
    const text = JSON.stringify(data);
    if (text === this.text) return;
    this.text = text;
    const made = [];
    const add = (title, shape, unit) => shape && made.push(card(title, this.figures(shape, unit), histogramChart(shape, { unit, label: title }).element));
    for (const [stage, shape] of Object.entries(data.latency)) add(`Time of answered calls: ${stage}`, shape, seconds);
    add("Time of answered calls, by model or endpoint", data.models, seconds);
    add("Time of items", data.items, seconds);
    add(data.of_items ? "Waits of items" : "Waits of calls", data.waits, seconds);
    const one = data.of_items ? "an item" : "a call";
    add(`Tokens read by ${one}`, data.prompt_tokens, tokens);
    add(`Tokens written by ${one}`, data.completion_tokens, tokens);
    fill(this.element, made.length ? h("div", { class: "grid" }, made) : h("p", { class: "dim" }, "There is nothing to count yet."));
  }

  figures({ series }, unit) {
    return smallTable([
      { name: "", cell: (one) => cut(one.name || "(none)", 40) },
      { name: "count", number: true, cell: (one) => count(one.count) },
      ...(series.some((one) => one.zeros) ? [{ name: "of them 0", number: true, cell: (one) => count(one.zeros) }] : []),
      { name: "mean", number: true, cell: (one) => unit(one.mean) },
      { name: "median", number: true, cell: (one) => unit(one.p50) },
      { name: "p95", number: true, cell: (one) => unit(one.p95) },
      { name: "most", number: true, cell: (one) => unit(one.max) },
    ], series);
  }
}

const tokens = (number) => (number === null ? "–" : short(Math.round(number)));

const REASONS = { start: "dim", slow_start: "ok", probe: "series3", rate_limited: "failed", latency: "failed", latency_probe: "dim", server: "series2", manual: "rate" };

export class LimitsView {
  constructor(context) {
    this.context = context;
    this.charts = new Map();
    this.about = h("p", { class: "dim" });
    this.places = h("div", {});
    this.list = h("div", {});
    this.element = h("div", {}, this.about, this.places, this.list);
  }

  async update() {
    const { source, run } = this.context;
    const [data, overview] = await Promise.all([source.ask("limits", { run }), source.ask("overview", { run })]);
    fill(this.about, data.count ? `${plural(data.count, "change")} of limits, with their reasons.` : "No limit of this run changed; the limits are among the settings of the overview.");
    for (const limiter of new Set(data.changes.map((one) => one.limiter))) {
      const changes = data.changes.filter((one) => one.limiter === limiter);
      const end = Math.max(overview.run.seconds, changes.at(-1).seconds);
      const times = [...changes.map((one) => one.seconds), end];
      const values = [...changes.map((one) => one.limit), changes.at(-1).limit];
      const given = {
        times, end, series: [{ name: `limit of ${limiter}`, tone: "ok", values, stepped: true }], time: (moment) => clock(moment, end / 20), label: `The limit of ${limiter} over time`, height: 200,
        marks: (plot) => dots(plot, changes),
      };
      if (this.charts.has(limiter)) this.charts.get(limiter).update(given);
      else {
        const chart = timeChart(given);
        this.charts.set(limiter, chart);
        this.places.append(card(limiter, chart.element, h("ul", { class: "legend" }, data.reasons.filter((one) => one.limiter === limiter).map((one) =>
          h("li", {}, h("span", { class: `swatch tone-${REASONS[one.reason] ?? "series4"}` }), `${one.reason.replaceAll("_", " ")}: ${count(one.count)}`)))));
        chart.draw();
      }
    }
    fill(this.list, data.changes.length ? card("Latest changes", smallTable([
      { name: "at", number: true, cell: (one) => seconds(one.seconds) },
      { name: "limit of", cell: (one) => one.limiter },
      { name: "to", number: true, cell: (one) => count(one.limit) },
      { name: "why", cell: (one) => one.reason.replaceAll("_", " ") },
    ], data.changes.slice(-100).toReversed())) : null);
  }
}

function dots(plot, changes) {
  const pen = plot.ctx;
  const ratio = window.devicePixelRatio || 1;
  for (const one of changes) {
    const [x, y] = [plot.valToPos(one.seconds, "x", true), plot.valToPos(one.limit, "y", true)];
    pen.fillStyle = colour(REASONS[one.reason] ?? "series4");
    pen.beginPath();
    pen.arc(x, y, (changes.length > 200 ? 1.6 : 3) * ratio, 0, 7);
    pen.fill();
  }
}

const LISTS = {
  now_failed: (a) => `Succeeded in run ${a} only`, now_succeeded: (_, b) => `Succeeded in run ${b} only`, only_a: (a) => `In run ${a} only`,
  only_b: (_, b) => `In run ${b} only`, changed: () => "Succeeded in both, with another result",
};
const UNITS = { seconds, cost: (number) => (number === null ? "–" : plain(number)) };

export class Compare {
  constructor(context) {
    this.context = context;
    this.place = h("div", {});
    this.element = h("div", {});
  }

  async update() {
    const { source, run, params } = this.context;
    const runs = (await source.runs()).filter((one) => one.run !== run);
    if (!runs.length) {
      fill(this.element, h("p", { class: "dim" }, "The record has one run only. Record another one into the same file to compare them."));
      return;
    }
    const other = Number(params.with) || (runs.findLast((one) => one.run < run) ?? runs[0]).run;
    const choice = h("select", { "aria-label": "The other run", on: { change: (event) => { this.context.setParams({ with: event.target.value }); this.update().catch(this.context.fail); } } },
      runs.map((one) => h("option", { value: one.run, selected: one.run === other }, `run ${one.run}: ${one.task}`)));
    const data = await source.ask("comparison", { a: other, b: run });
    const rows = (given, mark) => Object.entries(given).map(([name, [a, b]]) => ({ name: `${mark}${name.replaceAll("_", " ")}`, key: name, a, b }));
    const table = (given) => smallTable([
      { name: "", cell: (row) => row.name },
      { name: `run ${other}`, number: true, cell: (row) => (UNITS[row.key] ?? plain)(row.a) },
      { name: `run ${run}`, number: true, cell: (row) => (UNITS[row.key] ?? plain)(row.b) },
      { name: "change", number: true, cell: (row) => (typeof row.a === "number" && typeof row.b === "number" && row.a ? `${row.b >= row.a ? "+" : "−"}${percent(Math.abs(row.b - row.a), row.a)}` : "") },
    ], given);
    const differ = [...rows(data.settings, ""), ...rows(data.errors, "failed with ")];
    fill(this.element,
      h("div", { class: "filters" }, h("label", {}, `Run ${run} beside `, choice)),
      card("Figures", table(rows(data.figures, ""))),
      card("Settings and errors that differ", differ.length ? table(differ) : h("p", { class: "dim" }, "none")),
      card("Items that differ", Object.entries(LISTS).map(([name, titled]) => {
        const title = titled(other, run);
        const list = data.lists[name];
        if (list === null) return h("p", { class: "dim" }, `${title}: not known, since a run has no texts`);
        return h("details", {}, h("summary", {}, `${title}: ${count(list.count)}`), h("p", { class: "ids" }, list.ids.map((id) => [h("a", { href: this.context.address("items", { search: id }) }, cut(id, 40)), " "]), list.count > list.ids.length ? "…" : ""));
      })));
  }
}

export { TONES };
