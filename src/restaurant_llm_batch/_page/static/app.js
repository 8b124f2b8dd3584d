// The page: which run and view are shown, what the keys do, and what changes while a run goes on.

import { h, fill } from "./dom.js";
import { moment, seconds } from "./format.js";
import { openSource } from "./source.js";
import { Chart } from "./charts.js";
import { Overview } from "./overview.js";
import { TimelineView } from "./timeline.js";
import { Items, Calls } from "./lists.js";
import { ItemView } from "./item.js";
import { Failures, Distributions, LimitsView, Compare } from "./views.js";

const VIEWS = {
  overview: ["Overview", Overview], timeline: ["Timeline", TimelineView], items: ["Items", Items], calls: ["Calls", Calls], failures: ["Failures", Failures],
  distributions: ["Distributions", Distributions], limits: ["Limits", LimitsView], compare: ["Compare", Compare], item: [null, ItemView],
};
const KEYS = [
  ["1 to 8", "the views, from left to right"], ["/", "search"], ["j, k", "the next row or item, the one before"], ["Enter", "open the chosen row"], ["Escape, u", "back to the table; leave the search"],
  ["[ , ]", "the run before, the next run"], ["s", "items, the slowest first"], ["+, −, 0", "timeline: zoom in, out, show all; arrow keys move it"], ["?", "these keys"],
];
const POLL = 1000; // milliseconds

class App {
  constructor() {
    this.source = openSource();
    this.places = new Map(); // how far tables were scrolled, by their addresses
    this.names = Object.keys(VIEWS).filter((name) => VIEWS[name][0] && (!this.source.given || this.source.given.views.includes(name)));
    this.title = h("span", { class: "title" }, "restaurant-llm-batch");
    this.runs = h("select", { "aria-label": "Run", on: { change: (event) => this.go(Number(event.target.value), this.view === "item" ? "items" : this.view) } });
    this.state = h("span", { class: "state", role: "status" });
    this.nav = h("nav", { "aria-label": "Views" });
    this.main = h("main", { id: "main", tabindex: "-1" });
    this.alert = h("p", { class: "alert", role: "alert", hidden: true });
    this.help = h("dialog", { "aria-label": "Keys" }, h("h2", {}, "Keys"), h("dl", { class: "keys" }, KEYS.map(([key, what]) => [h("dt", {}, key), h("dd", {}, what)])), h("form", { method: "dialog" }, h("button", {}, "Close")));
    fill(document.getElementById("page"),
      h("a", { class: "skip", href: "#main", on: { click: (event) => { event.preventDefault(); this.main.focus(); } } }, "Skip to the content"),
      h("header", {}, h("div", { class: "top" }, this.title, this.runs, this.state, h("button", { class: "help", title: "Keys (?)", "aria-label": "Keys", on: { click: () => this.help.showModal() } }, "?")), this.nav),
      this.alert, this.main, this.help);
    addEventListener("hashchange", () => this.route().catch(this.fail));
    addEventListener("keydown", (event) => this.key(event));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.recolour());
    addEventListener("beforeprint", () => this.recolour());
  }

  async start() {
    this.version = await this.source.version();
    await this.loadRuns();
    await this.route();
    if (this.source.live) this.poll();
  }

  async loadRuns() {
    this.known = await this.source.runs();
    const text = JSON.stringify(this.known.map((run) => [run.run, run.has_ended]));
    if (text === this.listed) return;
    this.listed = text;
    fill(this.runs, this.known.toReversed().map((run) => h("option", { value: run.run }, run.began ? `${run.simulated ? "simulation" : "run"} ${run.run}: ${run.task}, ${moment(run.began)}` : `report: ${run.task}`)));
    if (this.run) this.runs.value = String(this.run);
  }

  // Addresses: #/run/1/items?outcome=failed

  address(run, view, params = {}) {
    const words = new URLSearchParams(Object.entries(params).filter(([, value]) => value !== undefined && value !== null && value !== ""));
    return `#/run/${run}/${view}${words.size ? `?${words}` : ""}`;
  }

  go(run, view, params) {
    location.hash = this.address(run, view, params);
  }

  async route() {
    if (!this.known.length) {
      fill(this.main, h("p", { class: "notice" }, "The record has no run yet; this page shows the first one when it begins."));
      this.shown = null;
      return;
    }
    const [path, words] = location.hash.slice(1).split("?");
    const [, , number, view, argument] = path.split("/");
    const latest = this.source.first ?? this.known.at(-1).run;
    const run = this.known.some((one) => one.run === Number(number)) ? Number(number) : JSON.parse(document.getElementById("data").textContent).run ?? latest;
    this.show(run, view in VIEWS ? view : "overview", argument, Object.fromEntries(new URLSearchParams(words ?? "")));
    await this.refresh();
  }

  show(run, view, argument, params) {
    const key = `${run}/${view}/${argument}`;
    const same = this.shown?.key === key && JSON.stringify(this.params) === JSON.stringify(params);
    if (same) return;
    if (this.shown?.made.table) {
      this.list = this.last;
      this.places.set(this.last, this.shown.made.table.place());
    }
    [this.run, this.view, this.argument, this.params] = [run, view, argument, params];
    this.last = location.hash || this.address(run, view);
    this.runs.value = String(run);
    const context = {
      source: this.source, run, params, argument, fail: this.fail,
      address: (name, query) => this.address(run, name, query),
      openItem: (place) => this.go(run, `item/${place}`),
      back: () => this.list || this.address(run, "items"),
      texts: () => Boolean(this.known.find((one) => one.run === run)?.texts),
      // Keeps what is chosen in the address, without a step in the history.
      setParams: (given) => {
        this.params = Object.fromEntries(Object.entries(given).filter(([, value]) => value));
        history.replaceState(null, "", this.address(run, view, this.params));
        this.last = location.hash;
      },
    };
    const made = new VIEWS[view][1](context);
    if (made.table) made.table.start = this.places.get(this.last);
    this.shown = { key, made };
    this.main.className = `view-${view}`;
    fill(this.main, made.element);
    scrollTo(0, 0);
    this.drawNav();
  }

  drawNav() {
    const here = this.view === "item" ? "items" : this.view;
    fill(this.nav, this.names.map((name, index) =>
      h("a", { href: this.address(this.run, name), title: `Key ${index + 1}`, "aria-current": name === here ? "page" : null }, VIEWS[name][0])));
    document.title = `${VIEWS[this.view][0] ?? `Item at ${this.argument}`} · run ${this.run} · ${this.source.name}`;
  }

  async refresh() {
    const { made } = this.shown;
    made.element.setAttribute("aria-busy", "true");
    try {
      await made.update();
      this.alert.hidden = true;
    } catch (error) {
      this.fail(error);
    } finally {
      made.element.removeAttribute("aria-busy");
    }
    this.drawState();
  }

  fail = (error) => {
    fill(this.alert, error.message);
    this.alert.hidden = false;
    if (!(error.message ?? "").includes("server")) console.error(error);
  };

  drawState() {
    const run = this.known.find((one) => one.run === this.run);
    if (!run) return;
    const state = run.has_ended ? (run.stopped ? "stopped" : "done") : this.source.live && performance.now() - (this.changed ?? -1e9) < 5000 ? "live" : "no end: it still runs, or was killed";
    this.state.className = `state ${state === "live" ? "live" : run.has_ended && !run.stopped ? "done" : "odd"}`;
    const text = state === "live" ? `live, ${seconds(Math.floor(run.seconds))}` : state;
    if (this.state.textContent !== text) fill(this.state, text);
  }

  // While a run goes on: a cheap question each second, and more only if the file has changed.
  async poll() {
    for (;;) {
      await new Promise((done) => setTimeout(done, POLL));
      if (document.hidden) continue;
      try {
        const version = await this.source.version();
        if (version === this.version) {
          if (this.shown) this.drawState();
          continue;
        }
        this.version = version;
        this.changed = performance.now();
        const began = performance.now();
        const before = this.known.find((one) => one.run === this.run);
        const none = !this.known.length;
        await this.loadRuns();
        const open = before && !before.has_ended;
        if (none || !this.shown) await this.route();
        else if (open) await this.refresh();
        else this.drawState();
        // A large record takes longer to read; do not read it all the time.
        await new Promise((done) => setTimeout(done, Math.min(10000, 4 * (performance.now() - began))));
      } catch (error) {
        this.fail(error);
      }
    }
  }

  recolour() {
    Chart.redrawAll();
    this.shown?.made.draw?.();
  }

  key(event) {
    const typing = event.target.closest?.("input, select, textarea, dialog");
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (typing) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const places = this.known?.map((run) => run.run) ?? [];
    const at = places.indexOf(this.run);
    const step = (by) => places[at + by] !== undefined && this.go(places[at + by], this.view === "item" ? "items" : this.view);
    const item = this.view === "item" ? this.shown?.made.data : null;
    const table = this.shown?.made.table;
    const walk = (by, place) => {
      if (item) return place !== null && this.go(this.run, `item/${place}`);
      table?.view.focus();
      return table?.choose(table.chosen + by);
    };
    const acts = {
      "?": () => this.help.showModal(), "/": () => this.main.querySelector("[data-search]")?.focus(), "[": () => step(-1), "]": () => step(1),
      s: () => this.go(this.run, "items", { sort: "-seconds" }),
      j: () => walk(1, item?.after),
      k: () => walk(-1, item?.before),
      Escape: () => item && (location.hash = this.list || this.address(this.run, "items")),
      u: () => item && (location.hash = this.list || this.address(this.run, "items")),
    };
    for (const [index, name] of this.names.entries()) acts[String(index + 1)] = () => this.go(this.run, name);
    if (!(event.key in acts)) return;
    event.preventDefault();
    acts[event.key]();
  }
}

const app = new App();
app.start().catch((error) => app.fail(error));
