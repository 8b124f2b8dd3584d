// The attempts of calls as bars over time: waiting for a slot, for a minute's limit, to be made again, and the call.

import { h } from "./dom.js";
import { seconds } from "./format.js";

export const WAITS = [["waits for a slot", "slot"], ["waits for a minute's limit", "rate"], ["waits to be made again", "retry"]];

// The parts of an attempt: [tone, from, to, what].
export function parts(attempt, latest) {
  const { queued, started, ended, slot_seconds, rate_seconds, retry_seconds } = attempt;
  return [
    ["retry", queued - retry_seconds, queued, "waited to be made again"],
    ["slot", queued, queued + slot_seconds, "waited for a slot"],
    ["rate", started - rate_seconds, started, "waited for a minute's limit"],
    [attempt.outcome ?? "open", started, ended ?? latest, attempt.outcome ?? "in flight"],
  ].filter(([, from, to], index) => to - from > 0 || index === 3);
}

// Bars of all calls of an item, a row for each attempt.
export function waterfall(calls, latest, openCall) {
  const attempts = calls.flatMap((call, index) => call.attempts.map((attempt) => ({ call, index, attempt })));
  if (!attempts.length) return h("p", { class: "dim" }, "No call was made for it.");
  const begin = Math.min(...attempts.map(({ attempt }) => attempt.queued - attempt.retry_seconds));
  const end = Math.max(...attempts.map(({ attempt }) => attempt.ended ?? latest), begin + 1e-6);
  const share = (moment) => `${(100 * (moment - begin)) / (end - begin)}%`;
  const rows = attempts.slice(0, 400).map(({ call, index, attempt }) => {
    const bars = parts(attempt, latest).map(([tone, from, to, what]) =>
      h("span", { class: `bar tone-${tone}`, title: `${what}: ${seconds(to - from)}`, style: { left: share(from), width: `max(2px, ${(100 * (to - from)) / (end - begin)}%)` } }));
    const name = `${call.label}${attempt.attempt > 1 ? `, try ${attempt.attempt}` : attempt.attempt === 0 ? ", from the store" : ""}`;
    return h("li", {},
      h("button", { class: "plain name", title: `${call.stage}: ${name}`, on: { click: () => openCall(index) } }, name),
      h("span", { class: "lane" }, bars),
      h("span", { class: "number" }, seconds((attempt.ended ?? latest) - attempt.started)));
  });
  return h("ol", { class: "waterfall", "aria-label": `Attempts from ${seconds(begin)} to ${seconds(end)} of the run` }, rows);
}
