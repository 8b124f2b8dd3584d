// Charts, drawn by uPlot (a global of its own script): bars, lines and steps, in the colours of the page.

import { h, fill, colour, legend } from "./dom.js";

const drawn = new Set();

// A chart that keeps the width of its place, and is drawn anew if the colours of the page change.
export class Chart {
  constructor(height, label) {
    this.height = height;
    this.plot = h("div", { class: "plot", role: "img", "aria-label": label });
    this.element = h("div", {}, this.plot);
    this.watch = new ResizeObserver(() => this.resize());
    this.watch.observe(this.plot);
    drawn.add(this);
  }

  // `make(width, height)` returns the options of uPlot and its data.
  show(make) {
    this.make = make;
    this.draw();
  }

  draw() {
    const width = Math.floor(this.plot.clientWidth);
    if (!this.make || width < 40) return;
    const { options, data } = this.make(width, this.height);
    const scale = this.zoom;
    this.chart?.destroy();
    this.chart = new uPlot({ width, height: this.height, legend: { show: false }, padding: [10, 12, 0, 0], ...options }, data, this.plot);
    if (scale) this.chart.setScale("x", scale);
    this.width = width;
  }

  resize() {
    const width = Math.floor(this.plot.clientWidth);
    if (width !== this.width) this.draw();
  }

  static redrawAll() {
    for (const chart of drawn) {
      if (chart.element.isConnected) chart.draw();
      else if (chart.chart) {
        chart.chart.destroy();
        drawn.delete(chart);
      }
    }
  }
}

const WHOLE = [1, 2, 5].flatMap((step) => Array.from({ length: 10 }, (_, power) => step * 10 ** power)).sort((a, b) => a - b);
const FONT = '11px system-ui, "Apple SD Gothic Neo", "Malgun Gothic", "Noto Sans KR", sans-serif';

export function axis(values, given = {}) {
  return {
    stroke: colour("dim"), font: FONT, grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line"), width: 1, size: 4 },
    ...(values ? { values: (_, splits) => splits.map((split) => (split === null ? "" : values(split))) } : {}), ...given,
  };
}

export const TONES = ["series1", "series2", "series3", "series4", "series5", "series6", "series7", "series8", "series9"];

// Bars of several series on top of each other, over `edges`.
export function histogramChart(shape, { unit, label, height = 180 }) {
  const chart = new Chart(height, label);
  const { edges, series } = shape;
  const places = edges.slice(0, -1).map((_, index) => index);
  const stacked = [];
  for (const one of series) stacked.push(one.counts.map((number, index) => number + (stacked.at(-1)?.[index] ?? 0)));
  const tones = series.map((_, index) => (series.length === 1 ? "ok" : TONES[index % TONES.length]));
  chart.show((width) => {
    const every = Math.max(1, Math.ceil(places.length / Math.max(2, Math.floor(width / 80))));
    return {
      options: {
        cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
        scales: { x: { time: false, range: [-0.6, places.length - 0.4] }, y: { range: (_, __, most) => [0, Math.max(1, most * 1.05)] } },
        axes: [
          axis(null, { splits: () => places.filter((place) => place % every === 0), values: (_, splits) => splits.map((place) => unit(middle(edges, place))), size: 30 }),
          axis((number) => (Number.isInteger(number) ? String(number) : ""), { size: 56, incrs: WHOLE }),
        ],
        // The highest stack first, so that the others are drawn over it.
        series: [{}, ...stacked.map((_, index) => bars(tones[stacked.length - 1 - index]))],
        hooks: { setCursor: [(plot) => hover(plot, chart, shape, unit)] },
      },
      data: [places, ...stacked.toReversed()],
    };
  });
  const names = series.map((one, index) => [one.name || "(none)", tones[index]]);
  chart.note = h("p", { class: "dim chartnote", "aria-live": "off" });
  chart.element.append(chart.note);
  if (series.length > 1) chart.element.append(legend(names));
  return chart;
}

const middle = (edges, place) => {
  const [low, high] = [edges[place], edges[place + 1]];
  return Number.isInteger(low + 0.5) && high - low === 1 ? low + 0.5 : low;
};

function bars(tone) {
  return { fill: colour(tone), stroke: colour(tone), width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.92, 100] }) };
}

function hover(plot, chart, shape, unit) {
  const place = plot.cursor.idx;
  if (place === null || place === undefined) return fill(chart.note);
  const parts = shape.series.filter((one) => one.counts[place]).map((one) => `${shape.series.length > 1 ? `${one.name}: ` : ""}${one.counts[place]}`);
  fill(chart.note, `${unit(shape.edges[place])} to ${unit(shape.edges[place + 1])}: ${parts.join(", ") || "0"}`);
}

// Lines or areas over time. `series`: {name, tone, values, fill, stepped, bars}; `onZoom(begin, end)`; `update` takes the same.
export function timeChart(first) {
  let given = { begin: 0, height: 160, ...first };
  const chart = new Chart(given.height, given.label);
  const note = h("p", { class: "dim chartnote" });
  chart.update = (more) => {
    given = { ...given, ...more };
    chart.draw();
  };
  const zoomed = (plot) => {
    const { left, width } = plot.select;
    if (!given.onZoom || width < 4) return;
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    given.onZoom(plot.posToVal(left, "x"), plot.posToVal(left + width, "x"));
  };
  const pointed = (plot) => {
    const place = plot.cursor.idx;
    if (place === null || place === undefined) return fill(note);
    const parts = given.series.map((one, index) => `${one.name}: ${show(plot.data[index + 1][place], given.unit)}`);
    return fill(note, `${given.time(plot.data[0][place])} – ${parts.join(", ")}`);
  };
  chart.show(() => ({
    options: {
      cursor: { y: false, drag: { x: Boolean(given.onZoom), y: false, setScale: false }, points: { size: 5 } },
      scales: {
        x: { time: false, range: [given.begin, Math.max(given.end, given.begin + 1e-6)] },
        y: { range: (_, __, most) => [0, Math.max(1, (most ?? 1) * 1.08)] },
      },
      axes: [axis(given.time, { space: 70, size: 30 }), axis(given.unit, { size: 56, ...(given.unit ? {} : { incrs: WHOLE }) })],
      series: [{}, ...given.series.map(line)],
      hooks: { setSelect: [zoomed], setCursor: [pointed], draw: [(plot) => given.marks?.(plot)] },
    },
    data: [given.times, ...given.series.map((one) => one.values)],
  }));
  chart.element.append(note);
  if (given.series.length > 1) chart.element.append(legend(given.series.map((one) => [one.name, one.tone])));
  return chart;
}

function line({ name, tone, ...given }) {
  const paths = given.bars ? uPlot.paths.bars({ size: [0.9, 60] }) : given.stepped ? uPlot.paths.stepped({ align: 1 }) : null;
  return {
    label: name, stroke: colour(tone), width: given.bars ? 0 : given.fill ? 1 : 1.6, points: { show: false }, spanGaps: true,
    ...(given.fill ? { fill: `${colour(tone)}${given.bars ? "cc" : "55"}` } : {}), ...(paths ? { paths } : {}),
  };
}

const show = (value, unit) => (value === null || value === undefined ? "–" : unit ? unit(value) : String(Number(value.toPrecision(3))));
