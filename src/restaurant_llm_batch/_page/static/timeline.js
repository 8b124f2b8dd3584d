// The timeline: a row for each slot, drawn on a canvas; zoomed by wheel, drag and keys; a click opens the item.

import { h, fill, colour, legend, card } from "./dom.js";
import { seconds, count, plural } from "./format.js";
import { timeChart } from "./charts.js";
import { WAITS } from "./waits.js";

const FATES = [["answered", "ok"], ["refused", "refused"], ["failed", "failed"], ["late", "late"], ["cancelled", "cancelled"], ["in flight", "open"]];
const BY_RANK = ["ok", "open", "cancelled", "late", "refused", "failed"]; // as `_RANK` in records/_page/timeline.py
const LEFT = 64; // pixels for the names of rows
const TOP = 22; // pixels for the times

export class TimelineView {
  constructor(context) {
    this.context = context;
    this.range = [Number(context.params.from) || null, Number(context.params.to) || null];
    this.canvas = h("canvas", {
      tabindex: "0", role: "img", "aria-label": "Calls over time, a row for each slot. Plus and minus zoom, arrows move, 0 shows all.",
      on: {
        wheel: (event) => this.wheel(event), pointerdown: (event) => this.press(event), pointermove: (event) => this.move(event),
        pointerup: (event) => this.release(event), pointerleave: () => this.tell(null), keydown: (event) => this.key(event), dblclick: () => this.zoomTo(null, null),
      },
    });
    this.canvas.addEventListener("wheel", (event) => event.ctrlKey || event.shiftKey || this.inside(event) ? event.preventDefault() : null, { passive: false });
    this.tip = h("p", { class: "tip", role: "status" });
    this.about = h("p", { class: "dim" });
    this.box = h("div", { class: "lanes" }, this.canvas);
    this.charts = h("div", {});
    const button = (name, title, act) => h("button", { title, on: { click: act } }, name);
    this.element = h("div", {},
      card("Slots",
        h("div", { class: "bar-row" },
          button("−", "Zoom out (-)", () => this.zoom(2)), button("+", "Zoom in (+)", () => this.zoom(0.5)),
          button("◀", "Earlier (left arrow)", () => this.shift(-0.4)), button("▶", "Later (right arrow)", () => this.shift(0.4)),
          button("Show all", "Show all (0)", () => this.zoomTo(null, null)), this.about),
        this.box, this.tip, legend(FATES), legend(WAITS),
        h("p", { class: "dim" }, "A call stands in the first row that is free when it starts. The strip below it is what the call after it in this row waited for.")),
      this.charts);
    this.watch = new ResizeObserver(() => this.draw());
    this.watch.observe(this.box);
  }

  async update() {
    const [begin, end] = this.range;
    const asked = (this.asked = (this.asked ?? 0) + 1);
    const data = await this.context.source.ask("timeline", { run: this.context.run, begin, end });
    if (asked !== this.asked) return;
    this.data = data;
    if (this.context.source.live) this.shown = [data.begin, data.end];
    else this.shown = [begin ?? data.begin, end ?? data.end];
    this.draw();
    this.drawCharts();
  }

  draw() {
    if (!this.data || !this.box.clientWidth) return;
    const width = this.box.clientWidth;
    const stages = Object.keys(this.data.stages);
    // Searches are short and many: their lanes are lower.
    const tall = (stage) => (stage === "llm" ? [400, 4, 18] : [160, 3, 8]);
    this.heights = Object.fromEntries(stages.map((stage) => {
      const [all, least, most] = tall(stage);
      return [stage, Math.max(least, Math.min(most, Math.floor(all / this.data.stages[stage])))];
    }));
    this.tops = new Map();
    let y = TOP;
    for (const stage of stages) {
      this.tops.set(stage, y);
      y += Math.max(30, this.data.stages[stage] * this.heights[stage]) + 10;
    }
    const ratio = window.devicePixelRatio || 1;
    const height = Math.max(60, y);
    this.canvas.width = width * ratio;
    this.canvas.height = Math.min(height * ratio, 16000);
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    const pen = this.canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.clearRect(0, 0, width, height);
    this.drawTimes(pen, width, height);
    pen.font = "11px system-ui, sans-serif";
    for (const stage of stages) {
      pen.fillStyle = colour("dim");
      pen.textAlign = "left";
      pen.fillText(stage, 4, this.tops.get(stage) + 10);
      pen.fillText(`${plural(this.data.stages[stage], "slot")}`, 4, this.tops.get(stage) + 23);
      pen.fillStyle = colour("lane");
      pen.fillRect(LEFT, this.tops.get(stage), width - LEFT, this.data.stages[stage] * this.heights[stage]);
    }
    if (!stages.length) {
      pen.fillStyle = colour("dim");
      pen.fillText("no call was made", LEFT, TOP + 12);
    }
    pen.save();
    pen.beginPath();
    pen.rect(LEFT, 0, width - LEFT, height);
    pen.clip();
    if (this.data.spans) this.drawSpans(pen);
    else this.drawBusy(pen);
    pen.restore();
    if (this.drag) {
      pen.fillStyle = colour("accent") + "33";
      pen.fillRect(Math.min(this.drag.from, this.drag.to), TOP, Math.abs(this.drag.to - this.drag.from), height);
    }
    const hidden = this.data.hidden_lanes ? `; ${count(this.data.hidden_lanes)} more slots are not shown` : "";
    const one = this.data.spans ? "" : ", too many to show one by one: zoom in";
    fill(this.about, `${seconds(this.shown[0])} to ${seconds(this.shown[1])}: ${plural(this.data.calls, "call")}${one}${hidden}`);
  }

  drawTimes(pen, width, height) {
    const [begin, end] = this.shown;
    const step = nice((end - begin) / Math.max(2, Math.floor((width - LEFT) / 110)));
    pen.font = "11px system-ui, sans-serif";
    pen.textAlign = "center";
    for (let moment = Math.ceil(begin / step) * step; moment <= end; moment += step) {
      const x = Math.round(this.x(moment)) + 0.5;
      pen.strokeStyle = colour("line");
      pen.beginPath();
      pen.moveTo(x, TOP - 6);
      pen.lineTo(x, height);
      pen.stroke();
      pen.fillStyle = colour("dim");
      pen.fillText(clock(moment, step), Math.min(Math.max(x, LEFT + 16), width - 24), 12);
    }
  }

  x(moment) {
    const [begin, end] = this.shown;
    return LEFT + ((moment - begin) / (end - begin)) * (this.box.clientWidth - LEFT);
  }

  time(x) {
    const [begin, end] = this.shown;
    return begin + ((x - LEFT) / (this.box.clientWidth - LEFT)) * (end - begin);
  }

  drawSpans(pen) {
    const at = this.columns();
    const tones = Object.fromEntries([...FATES, ...WAITS].map(([, tone]) => [tone, colour(tone)]));
    this.hits = [];
    for (const span of this.data.spans) {
      const lane = span[at.lane];
      if (lane === null || lane >= (this.data.stages[span[at.stage]] ?? 0)) continue;
      const height = this.heights[span[at.stage]];
      const strip = Math.max(1, Math.round(height * 0.25));
      const y = this.tops.get(span[at.stage]) + lane * height;
      const [queued, started] = [span[at.queued], span[at.started]];
      const ended = span[at.ended] ?? this.data.seconds;
      const bar = (tone, from, to, top, tall) => {
        if (to <= from) return;
        const left = this.x(from);
        pen.fillStyle = tones[tone] ?? tones.ok;
        pen.fillRect(left, top, Math.max(1, this.x(to) - left - (this.x(to) - left > 3 ? 1 : 0)), tall);
      };
      const low = y + height - strip;
      bar("retry", queued - span[at.retry_seconds], queued, low, strip);
      bar("slot", queued, queued + span[at.slot_seconds], low, strip);
      bar("rate", started - span[at.rate_seconds], started, low, strip);
      bar(span[at.fate], started, Math.max(ended, started + 1e-9), y, height - strip - (height > 5 ? 1 : 0));
      this.hits.push([this.x(started), Math.max(this.x(ended), this.x(started) + 3), y, y + height, span]);
    }
  }

  drawBusy(pen) {
    this.hits = [];
    const [begin, end] = [this.data.begin, this.data.end];
    const width = (end - begin) / this.data.parts;
    const tones = BY_RANK.map((tone) => colour(tone));
    for (const [stage, lane, shares, fates] of this.data.busy) {
      const height = this.heights[stage];
      const y = this.tops.get(stage) + lane * height;
      for (let part = 0; part < shares.length; part += 1) {
        const share = Number(shares[part]);
        if (!share && fates[part] === "0") continue;
        const left = this.x(begin + part * width);
        pen.globalAlpha = 0.25 + (0.75 * share) / 9;
        pen.fillStyle = tones[Number(fates[part])];
        pen.fillRect(left, y, this.x(begin + (part + 1) * width) - left + 0.5, Math.max(1, height - (height > 4 ? 1 : 0)));
      }
    }
    pen.globalAlpha = 1;
  }

  columns() {
    return Object.fromEntries(this.data.columns.map((name, index) => [name, index]));
  }

  drawCharts() {
    const { levels, begin, end } = this.data;
    const parts = levels.waits.slot.length;
    const times = Array.from({ length: parts }, (_, part) => begin + ((part + 0.5) * (end - begin)) / parts);
    const tones = { llm: "ok", search: "series2", tokens: "series3" };
    const flight = Object.entries(levels.flight).map(([stage, values]) => ({ name: `${stage} calls in flight`, tone: tones[stage] ?? "series4", values, fill: true }));
    const waits = WAITS.map(([name, tone]) => ({ name, tone, values: levels.waits[tone], fill: true }));
    const common = { times, begin, end, time: (moment) => clock(moment, (end - begin) / 20), onZoom: (from, to) => this.zoomTo(from, to) };
    if (this.flight && this.names === flight.map((one) => one.name).join()) {
      this.flight.update({ ...common, series: flight });
      this.waiting.update({ ...common, series: waits });
      return;
    }
    this.names = flight.map((one) => one.name).join();
    this.flight = timeChart({ ...common, series: flight, label: "Calls in flight over time" });
    this.waiting = timeChart({ ...common, series: waits, label: "Waiting calls over time" });
    fill(this.charts, card("Calls in flight", this.flight.element), card("Calls that wait", this.waiting.element));
    this.flight.draw();
    this.waiting.draw();
  }

  // Zoom

  zoomTo(begin, end) {
    this.range = [begin === null ? null : Math.max(0, begin), end === null ? null : Math.min(this.data.seconds, end)];
    if (this.range[0] !== null && this.range[0] <= 0 && this.range[1] >= this.data.seconds) this.range = [null, null];
    this.shown = [this.range[0] ?? 0, this.range[1] ?? this.data.seconds];
    this.draw();
    this.context.setParams({ from: this.range[0]?.toPrecision(8), to: this.range[1]?.toPrecision(8) });
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.update().catch(this.context.fail), 120);
  }

  zoom(factor, at = 0.5) {
    const [begin, end] = this.shown;
    const middle = begin + at * (end - begin);
    const width = Math.max((end - begin) * factor, this.data.seconds * 1e-7);
    this.zoomTo(middle - at * width, middle + (1 - at) * width);
  }

  shift(share) {
    const [begin, end] = this.shown;
    const step = Math.max(-begin, Math.min(share * (end - begin), this.data.seconds - end));
    if (step) this.zoomTo(begin + step, end + step);
  }

  inside(event) {
    return event.offsetX > LEFT;
  }

  wheel(event) {
    if (!this.data || !this.inside(event)) return;
    const at = (event.offsetX - LEFT) / (this.box.clientWidth - LEFT);
    if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) this.shift(Math.sign(event.deltaX || event.deltaY) * 0.1);
    else this.zoom(event.deltaY > 0 ? 1.25 : 0.8, at);
  }

  press(event) {
    if (event.button !== 0 || !this.data || !this.inside(event)) return;
    this.drag = { from: event.offsetX, to: event.offsetX, y: event.offsetY };
    this.canvas.setPointerCapture(event.pointerId);
  }

  move(event) {
    if (this.drag) {
      this.drag.to = Math.max(LEFT, event.offsetX);
      this.draw();
    } else this.tell(this.hit(event));
  }

  release(event) {
    const drag = this.drag;
    this.drag = null;
    if (!drag) return;
    if (Math.abs(drag.to - drag.from) > 4) {
      this.zoomTo(...[this.time(drag.from), this.time(drag.to)].sort((a, b) => a - b));
      return;
    }
    this.draw();
    const span = this.hit(event);
    if (span && span[this.columns().place] !== null) this.context.openItem(span[this.columns().place]);
  }

  hit(event) {
    return this.hits?.findLast(([left, right, top, bottom]) => event.offsetX >= left && event.offsetX <= right && event.offsetY >= top && event.offsetY < bottom)?.[4];
  }

  tell(span) {
    this.canvas.classList.toggle("over", Boolean(span));
    if (!span) return fill(this.tip);
    const at = this.columns();
    const waits = [["slot_seconds", "for a slot"], ["rate_seconds", "for a minute's limit"], ["retry_seconds", "to be made again"]]
      .filter(([name]) => span[at[name]] > 0).map(([name, what]) => `${seconds(span[at[name]])} ${what}`);
    const ended = span[at.ended] ?? this.data.seconds;
    const where = span[at.place] === null ? "" : `, item at place ${count(span[at.place])}`;
    fill(this.tip, `${span[at.stage]} ${span[at.label]}${span[at.attempt] > 1 ? `, try ${span[at.attempt]}` : ""}${where}: ${span[at.fate]} after ${seconds(ended - span[at.started])}`,
      span[at.slots] > 1 ? `, ${span[at.slots]} slots` : "", waits.length ? `; waited ${waits.join(", ")}` : "", `; began at ${seconds(span[at.started])}`);
  }

  key(event) {
    if (!this.data || event.ctrlKey || event.metaKey || event.altKey) return;
    const acts = { "+": () => this.zoom(0.5), "=": () => this.zoom(0.5), "-": () => this.zoom(2), 0: () => this.zoomTo(null, null), ArrowLeft: () => this.shift(-0.25), ArrowRight: () => this.shift(0.25) };
    if (!(event.key in acts)) return;
    acts[event.key]();
    event.preventDefault();
    event.stopPropagation();
  }
}

function nice(step) {
  const power = 10 ** Math.floor(Math.log10(step));
  for (const factor of [1, 2, 5, 10]) if (factor * power >= step) return step > 5 && factor * power < 60 && step <= 60 ? [10, 15, 30, 60].find((one) => one >= step) : factor * power;
  return step;
}

// A time since the run began, as precise as the step between two of them.
export function clock(moment, step) {
  const digits = step >= 1 ? 0 : Math.min(6, Math.ceil(-Math.log10(step)));
  if (moment < 60) return `${moment.toFixed(digits)} s`;
  const [hours, minutes] = [Math.floor(moment / 3600), Math.floor((moment % 3600) / 60)];
  const rest = (moment % 60).toFixed(digits).padStart(digits ? digits + 3 : 2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}
