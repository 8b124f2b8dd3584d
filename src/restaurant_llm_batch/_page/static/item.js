// One item: its result, sentence by sentence, with the reviews behind each; its calls with prompts, answers and attempts.

import { h, fill, card, badge, legend } from "./dom.js";
import { count, short, seconds, cost, idText, visible, plain, plural } from "./format.js";
import { waterfall, WAITS } from "./waits.js";
import { cut } from "./table.js";

export class ItemView {
  constructor(context) {
    this.context = context;
    this.element = h("div", { class: "item" });
    this.open = new Set();
  }

  async update() {
    const { source, run, argument } = this.context;
    const data = await source.ask("item", { run, place: Number(argument) });
    const text = JSON.stringify(data);
    if (text === this.text) return;
    this.text = text;
    this.data = data;
    this.calls = data.calls_made.map((call, index) => this.call(call, index));
    const latest = Math.max(data.ended ?? 0, ...data.calls_made.flatMap((call) => call.attempts.map((attempt) => attempt.ended ?? attempt.started)));
    const parts = [this.heading(data)];
    if (data.error) parts.push(card(`Failed at ${data.stage}`, h("pre", { class: "error" }, data.error), data.attempts > 1 ? h("p", { class: "dim" }, `after ${plural(data.attempts, "attempt")}`) : null));
    if (data.missing) parts.push(h("p", { class: "notice" }, data.missing));
    if (data.sentences.length || data.reviews.length) {
      parts.push(data.sentences.length && data.reviews.length
        ? h("div", { class: "columns wide" }, this.sentences(data), this.reviews(data))
        : data.sentences.length ? this.sentences(data) : this.reviews(data));
    }
    if (data.result !== null && data.result !== undefined) {
      parts.push(h("section", { class: "card" }, h("details", { open: !data.sentences.length }, h("summary", {}, h("h2", {}, "The whole result")), h("pre", {}, typeof data.result === "string" ? data.result : JSON.stringify(data.result, null, 2)))));
    }
    if (data.calls_made.length) {
      parts.push(card("Attempts over time", waterfall(data.calls_made, latest, (index) => this.reveal(index)), legend(WAITS)));
      parts.push(card(`Calls: ${count(data.calls_made.length)}`, this.calls));
    }
    fill(this.element, parts);
  }

  heading(data) {
    const step = (name, title, place) => h("a", { class: "button", title, "aria-disabled": place === null ? "true" : null, href: place === null ? null : this.context.address(`item/${place}`) }, name);
    const spent = data.seconds === null || Number.isNaN(data.seconds) ? null : `${seconds(data.seconds)}`;
    return h("div", { class: "itemhead" },
      h("p", { class: "bar-row" },
        h("a", { class: "button", href: this.context.back(), title: "Back to the table (Escape)" }, "◂ back"), step("▲", "The item before (k)", data.before), step("▼", "The next item (j)", data.after)),
      h("h2", {}, h("span", { class: "itemid" }, idText(data.id)), " ", badge(data.outcome)),
      h("p", { class: "dim" }, [
        `place ${count(data.place)}`, spent, data.wait_seconds ? `its calls waited ${seconds(data.wait_seconds)}` : null, plural(data.calls ?? 0, "call"),
        data.prompt_tokens || data.completion_tokens ? `${short(data.prompt_tokens)} + ${short(data.completion_tokens)} tokens` : null, data.cost === null || data.cost === undefined ? null : `cost ${cost(data.cost)}`,
      ].filter(Boolean).join(" · ")));
  }

  sentences(data) {
    let path = null;
    const rows = data.sentences.map((sentence) => {
      const first = sentence.path !== path;
      path = sentence.path;
      const cites = sentence.reviews.map((review) => this.mark(data, review));
      const calls = sentence.calls.map((index) =>
        h("button", { class: "plain small", title: "Show this call", on: { click: () => this.reveal(index) } }, `call ${index + 1}`));
      return [
        first ? h("h3", {}, path || "result") : null,
        h("p", { class: "sentence", tabindex: "0", data: { reviews: sentence.reviews.join(" ") },
          on: { mouseenter: () => this.light(sentence.reviews), mouseleave: () => this.light([]), focus: () => this.light(sentence.reviews), blur: () => this.light([]) } },
        sentence.text, " ", cites, " ", calls.length || !data.calls_made.length ? calls : h("span", { class: "dim" }, "written by the library, or given")),
      ];
    });
    return card("Result, sentence by sentence", rows);
  }

  name(data, number) {
    return visible(data.reviews[number].id ?? String(number + 1));
  }

  mark(data, number) {
    return h("button", { class: "cite", title: "Show the review that it cites", on: { click: () => this.show(number) } }, cut(this.name(data, number), 20));
  }

  reviews(data) {
    const cited = new Set(data.sentences.flatMap((sentence) => sentence.reviews));
    const shown = data.reviews.map((review, number) => ({ review, number })).sort((a, b) => cited.has(b.number) - cited.has(a.number) || a.number - b.number);
    return card(`${data.calls_made.length ? "Reviews shown to the model" : "Reviews that it cites"}: ${count(data.reviews.length)}`, h("ol", { class: "reviews" }, shown.map(({ review, number }) => {
      const from = data.sentences.map((sentence, index) => ({ sentence, index })).filter(({ sentence }) => sentence.reviews.includes(number));
      return h("li", { id: `review-${number}`, tabindex: "-1", class: cited.has(number) ? "cited" : null,
        on: { mouseenter: () => this.lightSentences(number), mouseleave: () => this.lightSentences(null) } },
      h("p", { class: "dim" }, h("strong", {}, cut(this.name(data, number), 40)), review.parts.length ? ` ${review.parts.join(", ")}` : "", from.length ? ` · cited by ${plural(from.length, "sentence")}` : ""),
      h("p", { class: "content" }, review.content));
    })));
  }

  light(numbers) {
    for (const element of this.element.querySelectorAll(".reviews li")) element.classList.toggle("lit", numbers.includes(Number(element.id.slice(7))));
  }

  lightSentences(number) {
    for (const element of this.element.querySelectorAll(".sentence")) element.classList.toggle("lit", number !== null && element.dataset.reviews.split(" ").includes(String(number)));
  }

  show(number) {
    const element = this.element.querySelector(`#review-${number}`);
    element?.scrollIntoView({ block: "center" });
    element?.focus({ preventScroll: true });
    this.light([number]);
  }

  reveal(index) {
    const element = this.calls[index];
    element.open = true;
    element.scrollIntoView({ block: "start" });
    element.querySelector("summary").focus({ preventScroll: true });
  }

  call(call, index) {
    const last = call.attempts.at(-1);
    const tries = call.attempts.filter((attempt) => attempt.attempt > 0).length;
    const sum = (name) => call.attempts.reduce((all, attempt) => all + (attempt[name] ?? 0), 0);
    const facts = [
      call.model, tries ? plural(tries, "try", "tries") : "from the store", last.ended === null ? "in flight" : seconds(last.ended - last.started),
      sum("prompt_tokens") || sum("completion_tokens") ? `${short(sum("prompt_tokens"))} + ${short(sum("completion_tokens"))} tokens` : null,
      call.attempts.some((attempt) => attempt.cost !== null) ? `cost ${cost(sum("cost"))}` : null, call.made_for === null ? null : `made for item ${call.made_for}`,
    ];
    const details = h("details", { class: "call", open: this.open.has(index), on: { toggle: (event) => this.open[event.target.open ? "add" : "delete"](index) } },
      h("summary", {}, h("strong", {}, `${index + 1}. ${call.label || call.stage}`), " ", badge(last.outcome), h("span", { class: "dim" }, ` ${facts.filter(Boolean).join(" · ")}`)),
      this.attempts(call),
      call.messages.map((message) => [h("h3", {}, message.role ?? "message"), h("pre", {}, typeof message.content === "string" ? message.content : plain(message.content))]),
      call.answer === null ? null : [h("h3", {}, "answer"), h("pre", { class: "answer" }, readable(call.answer))],
      call.reviews.length ? h("p", { class: "dim" }, "It showed the reviews ", call.reviews.map((number) => [this.mark(this.data, number), " "])) : null);
    return details;
  }

  attempts(call) {
    const rows = call.attempts.map((attempt) => {
      const waits = [["slot_seconds", "for a slot"], ["rate_seconds", "for a minute's limit"], ["retry_seconds", "to be made again"]].filter(([name]) => attempt[name] > 0.0005).map(([name, what]) => `${seconds(attempt[name])} ${what}`);
      return h("li", {},
        h("p", {}, attempt.attempt ? `Try ${attempt.attempt} ` : "From the store ", badge(attempt.outcome),
          h("span", { class: "dim" }, [
            ` began at ${seconds(attempt.started)}`, attempt.ended === null ? null : `took ${seconds(attempt.ended - attempt.started)}`, waits.length ? `waited ${waits.join(", ")}` : null,
            attempt.prompt_tokens === null ? null : `${count(attempt.prompt_tokens)} + ${count(attempt.completion_tokens)} tokens${attempt.cached_tokens ? ` (${count(attempt.cached_tokens)} cached)` : ""}`,
            attempt.finish_reason && attempt.finish_reason !== "stop" ? `ended by ${attempt.finish_reason}` : null, attempt.status === null ? null : `status ${attempt.status}`,
          ].filter(Boolean).join(" · "))),
        attempt.error ? h("pre", { class: "error" }, attempt.error) : null);
    });
    return h("ol", { class: "attempts" }, rows);
  }
}

// An answer in JSON, with its lines.
function readable(answer) {
  try {
    const value = JSON.parse(answer);
    return value !== null && typeof value === "object" ? JSON.stringify(value, null, 2) : answer;
  } catch {
    return answer;
  }
}
