// The overview: what ran, what it took and cost, what it will come to, and where the time went.

import { h, fill, card, smallTable, badge, legend } from "./dom.js";
import { count, short, seconds, cost, percent, idText, plain, plural } from "./format.js";
import { timeChart } from "./charts.js";
import { cut } from "./table.js";

export class Overview {
  constructor(context) {
    this.context = context;
    this.tiles = h("div", { class: "tiles" });
    this.state = h("div", {});
    this.rest = h("div", {});
    this.causes = h("div", {});
    this.element = h("div", {}, this.state, this.tiles, this.rest);
  }

  async update() {
    const { source, run } = this.context;
    const data = await source.ask("overview", { run });
    fill(this.state, notices(data, source));
    fill(this.tiles, tiles(data));
    if (data.progress) this.drawProgress(data);
    const { context } = this;
    fill(this.rest,
      data.progress && h("div", { class: "columns" },
        card("Progress", this.progress.element),
        data.groups && card("Where the time went", timeBar(data.groups))),
      data.groups?.length ? card("Calls by kind", kinds(data.groups, context)) : null,
      data.latency?.length ? card("Calls", latencies(data.latency)) : null,
      data.limiters?.length ? card(data.run.ended ? "Limits at the end" : "Limits now", limiters(data.limiters), h("p", {}, h("a", { href: context.address("limits") }, "How they changed"))) : null,
      data.servers?.length ? card("The model's server", servers(data.servers)) : null,
      h("div", { class: "columns" },
        card("Slowest items", extreme(data.slowest, seconds, context), more(context, { sort: "-seconds" })),
        card(data.costliest.some((one) => one.value !== null) ? "Costliest items" : "Items of the most tokens",
          extreme(data.costliest, (value, row) => (value === null ? `${short(row.tokens)} tokens` : cost(value)), context), more(context, { sort: "-cost" }))),
      this.causes,
      data.run.settings && card("Settings in force", settings(data.run)));
    this.progress?.draw();
    if (data.run.failed) {
      const causes = await source.ask("causes", { run });
      fill(this.causes, card("Why items failed", smallTable([
        { name: "items", number: true, cell: (one) => count(one.count) },
        { name: "stage", cell: (one) => one.stage },
        { name: "cause", cell: (one) => h("a", { href: context.address("items", { cause: one.cause, stage: one.stage }) }, cut(one.cause, 160)) },
      ], causes.items.causes.slice(0, 5)), h("p", {}, h("a", { href: context.address("failures") }, "All causes"))));
    } else fill(this.causes);
  }

  drawProgress(data) {
    const { width, succeeded, failed } = data.progress;
    const times = succeeded.map((_, place) => (place + 0.5) * width);
    const both = succeeded.map((number, place) => number + failed[place]);
    const series = [
      { name: "items that ended", tone: "ok", values: both, bars: true, fill: true },
      { name: "of them failed", tone: "failed", values: failed, bars: true, fill: true },
    ];
    const given = { times, series, end: width * succeeded.length, time: seconds, label: "Items that ended, over the time of the run", height: 150 };
    if (this.progress) this.progress.update(given);
    else this.progress = timeChart(given);
  }
}

function notices({ run }, source) {
  const found = [];
  if (run.simulated) found.push("This is a simulated run; its times are virtual.");
  if (run.stopped) found.push(`It ended early: ${run.stopped}`);
  if (run.missing) found.push(`${plural(run.missing, "event")} of this run could not be written, so figures may be too small.`);
  for (const note of source.notes ?? []) found.push(note);
  return found.map((text) => h("p", { class: "notice" }, text));
}

function tile(name, value, ...more) {
  return h("div", { class: "tile" }, h("h2", {}, name), h("p", { class: "value" }, value), more.filter(Boolean).map((one) => (one instanceof Node ? one : h("p", { class: "dim" }, one))));
}

function tiles({ run, projected, open_items: open }) {
  const done = run.succeeded + run.failed;
  const total = run.total ?? done;
  const tokens = run.prompt_tokens + run.completion_tokens;
  const meter = h("span", { class: "meter", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": total, "aria-valuenow": done, "aria-label": "Items that ended" },
    h("span", { class: "bar tone-ok", style: { width: `${total ? (100 * run.succeeded) / total : 0}%` } }),
    h("span", { class: "bar tone-failed", style: { width: `${total ? (100 * run.failed) / total : 0}%` } }));
  return [
    tile("Items", run.total === null ? count(done) : `${count(done)} of ${count(total)}`, meter,
      `${count(run.succeeded)} succeeded, ${count(run.failed)} failed${open ? `, ${count(open)} open` : ""}`),
    tile("Time", seconds(run.seconds), projected ? `about ${seconds(projected.seconds_left)} to go` : null,
      projected ? `${short(projected.per_minute)} items a minute now` : run.seconds > 0 && done ? `${short((60 * done) / run.seconds)} items a minute` : null),
    tile("Calls", count(run.calls), `${count(run.retries)} made again, ${count(run.rate_limited)} refused`,
      run.cache_hits ? `${count(run.cache_hits)} replies from the store` : null, projected ? `about ${short(projected.calls)} in all` : null),
    tile("Tokens", short(tokens), `${short(run.prompt_tokens)} read, ${short(run.completion_tokens)} written`,
      run.cached_tokens ? `${percent(run.cached_tokens, run.prompt_tokens)} of those read were cached` : null,
      projected ? `about ${short(projected.tokens)} in all` : null),
    tile("Cost", cost(run.cost), run.cost === null ? (run.estimated_cost === null ? "no prices are known" : `about ${cost(run.estimated_cost)}`) : null,
      projected?.cost ? `about ${cost(projected.cost)} in all` : null,
      run.cost && done ? `${cost(run.cost / done)} an item` : null),
  ];
}

function timeBar(groups) {
  const sum = (name) => groups.reduce((all, one) => all + (one[name] ?? 0), 0);
  const made = groups.reduce((all, one) => all + (one.latency.mean ?? 0) * one.latency.count, 0);
  const parts = [["answered calls", "ok", made], ["waiting for a slot", "slot", sum("slot_seconds")], ["waiting for a minute's limit", "rate", sum("rate_seconds")], ["waiting to be made again", "retry", sum("retry_seconds")]];
  const all = parts.reduce((total, [, , size]) => total + size, 0);
  const bar = h("div", { class: "stack", role: "img", "aria-label": parts.map(([name, , size]) => `${name} ${seconds(size)}`).join(", ") },
    parts.map(([name, tone, size]) => h("span", { class: `bar tone-${tone}`, title: `${name}: ${seconds(size)}`, style: { width: `${all ? (100 * size) / all : 0}%` } })));
  return h("div", {}, bar, legend(parts.map(([name, tone, size]) => [`${name}: ${seconds(size)} (${percent(size, all)})`, tone])),
    h("p", { class: "dim" }, "Sums over all calls; calls that wait or run side by side count one by one."));
}

export function kinds(groups, context) {
  const several = new Set(groups.map((one) => one.model).filter(Boolean)).size > 1;
  const number = (name, title, value) => ({ name, title, number: true, cell: (row) => value(row) });
  const some = (name) => groups.some((one) => one[name]);
  return smallTable([
    { name: "stage", cell: (row) => row.stage },
    { name: "label", cell: (row) => h("a", { href: context.address("calls", { stage: row.stage, label: row.label, model: row.model }) }, row.label || "(none)") },
    several && { name: "model", title: "The model or endpoint that answered", cell: (row) => row.model || (row.stage === "llm" ? "no answer" : "") },
    number("calls", "Attempts", (row) => count(row.calls)),
    number("answered", "", (row) => count(row.ok)),
    number("refused", "", (row) => bad(row.refused)),
    number("failed", "", (row) => bad(row.failed + row.late)),
    some("open") && number("in flight", "", (row) => count(row.open)),
    some("stored") && number("stored", "Replies that the store had", (row) => count(row.stored)),
    number("median", "Of answered calls", (row) => seconds(row.latency.p50)),
    number("p95", "95 of 100 answered calls took no longer", (row) => seconds(row.latency.p95)),
    number("longest", "", (row) => seconds(row.latency.max)),
    number("waited", "For slots, limits per minute and to be made again, in all", (row) => seconds(row.slot_seconds + row.rate_seconds + row.retry_seconds)),
    number("read", "Tokens", (row) => short(row.prompt_tokens)),
    number("written", "Tokens", (row) => short(row.completion_tokens)),
    some("cost") && number("cost", "", (row) => cost(row.cost)),
  ].filter(Boolean), groups);
}

function latencies(stages) {
  const time = (name, key, title) => ({ name, title, number: true, cell: (row) => seconds(row[key]) });
  return smallTable([
    { name: "stage", cell: (row) => row.stage },
    { name: "calls", number: true, cell: (row) => count(row.calls) },
    { name: "in flight at most", number: true, cell: (row) => count(row.peak) },
    { name: "answered", number: true, cell: (row) => count(row.count) },
    time("mean", "mean"), time("median", "p50"), time("p95", "p95", "95 of 100 answered calls took no longer"), time("longest", "max"),
  ], stages);
}

function limiters(rows) {
  const number = (name, key, title) => ({ name, title, number: true, cell: (row) => count(row[key]) });
  return smallTable([
    { name: "limit of", cell: (row) => row.limiter.replaceAll("_", " ") },
    number("limit", "most", "Calls, or tokens, in flight at once; or in a minute"), number("in use", "in_use"), number("waiting", "waiting", "Calls that wait for it"),
    number("to be made again", "retrying", "Calls that wait for their next attempt"), number("most in use", "peak"),
  ], rows);
}

function servers(rows) {
  const number = (name, key, title) => ({ name, title, number: true, cell: (row) => count(row[key]) });
  const share = (value) => (value === null ? "" : `${Math.round(100 * value)} %`);
  return smallTable([
    { name: "server", cell: (row) => row.server },
    number("running", "running", "Requests that it worked on, at most"), number("waiting", "waiting", "Requests that waited there, at most"),
    { name: "KV cache", title: "Share in use, at most", number: true, cell: (row) => share(row.kv_usage) },
    number("tokens of it", "kv_tokens"), number("preempted", "preemptions", "Requests that it stopped to make room"),
    number("refused", "rejections"), number("readings", "readings"), { name: "failed", number: true, cell: (row) => bad(row.failed_readings) },
  ], rows);
}

const bad = (number) => (number ? h("strong", { class: "bad" }, count(number)) : "0");

function extreme(rows, unit, context) {
  if (!rows.length) return h("p", { class: "dim" }, "none");
  return h("ol", { class: "extreme" }, rows.map((row) =>
    h("li", {}, h("a", { href: context.address(`item/${row.place}`) }, cut(idText(row.id), 40)), row.outcome === "succeeded" ? null : badge(row.outcome), h("span", { class: "number" }, unit(row.value, row)))));
}

const more = (context, query) => h("p", {}, h("a", { href: context.address("items", query) }, "All, in this order"));

export function settings(run) {
  const facts = { strategy: run.strategy, "version of the library": run.version, process: run.process === undefined ? null : String(run.process), texts: run.texts ? "recorded" : "not recorded" };
  const known = Object.entries(facts).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const groups = Object.entries(run.settings ?? {}).filter(([, group]) => group !== null && group !== undefined);
  return h("div", { class: "settings" },
    h("dl", {}, known.map(([name, value]) => [h("dt", {}, name), h("dd", {}, plain(value))])),
    groups.map(([name, group]) => h("details", { open: name === "limits" }, h("summary", {}, name.replaceAll("_", " ")), tree(group))));
}

function tree(value) {
  if (value === null || typeof value !== "object") return h("p", {}, plain(value));
  const entries = Object.entries(value).filter(([, one]) => one !== null);
  if (!entries.length) return h("p", { class: "dim" }, "none");
  return h("dl", {}, entries.map(([name, one]) => [h("dt", {}, name), h("dd", {}, one !== null && typeof one === "object" && !Array.isArray(one) ? tree(one) : plain(one))]));
}
