// Where the data comes from: the server of `view`, or the page itself if it is one file.

class ServerSource {
  live = true;

  constructor(given) {
    this.name = given.name;
  }

  async ask(what, given = {}) {
    const words = new URLSearchParams();
    for (const [name, value] of Object.entries(given)) if (value !== undefined && value !== null && value !== "") words.set(name, value);
    let answer;
    try {
      answer = await fetch(`api/${what}?${words}`, { cache: "no-store" });
    } catch {
      throw new Error("the server of this page has ended; start it again with: restaurant-llm-batch view");
    }
    const body = await answer.json().catch(() => null);
    if (!answer.ok) throw new Error(body?.detail ?? `the server answered with status ${answer.status}`);
    return body;
  }

  version = async () => (await this.ask("version")).version;
  runs = () => this.ask("runs");
  rows = (table, run, query, offset, limit) => this.ask(table, { run, ...query, offset, limit });
}

// The data of one run, in the page.
class FileSource {
  live = false;

  constructor(given) {
    this.given = given;
    this.name = given.name;
    this.notes = given.notes;
    this.orders = new Map();
  }

  version = async () => "file";
  runs = async () => this.given.runs;

  async ask(what, given = {}) {
    if (what === "item") return this.item(given.place);
    if (!(what in this.given)) throw new Error("this page has no data of this kind");
    this.unpacked ??= {};
    this.unpacked[what] ??= unpack(this.given[what]);
    return this.unpacked[what];
  }

  async rows(table, run, query, offset, limit) {
    const { names, rows, total } = await this.ask(table);
    const key = JSON.stringify([table, query]);
    if (!this.orders.has(key)) this.orders.set(key, arranged(rows, names, query, table, table === "items" ? await this.ask("calls") : null));
    const found = this.orders.get(key);
    return { names, rows: found.slice(offset, offset + limit), total: found.length, left_out: total - rows.length };
  }

  async item(place) {
    const details = this.given.details;
    const chunk = details.of[place];
    if (chunk === undefined) return this.bareItem(place);
    this.chunks ??= new Map();
    if (!this.chunks.has(chunk)) this.chunks.set(chunk, await unpack(details.chunks[chunk]));
    return { ...this.chunks.get(chunk)[place], ...(await this.neighbours(place)) };
  }

  // An item of which the page has only its row.
  async bareItem(place) {
    const { names, rows } = await this.ask("items");
    const row = rows.find((one) => one[0] === place);
    if (!row) throw new Error("this page has no item at this place; the record has all of them");
    const found = Object.fromEntries(names.map((name, index) => [name, row[index]]));
    const missing = this.given.details.missing;
    const base = { seconds: found.ended - found.started, wait_seconds: found.waited, result: null, sentences: [], calls_made: [], reviews: [] };
    return { ...found, ...base, missing, ...(await this.neighbours(place)) };
  }

  async neighbours(place) {
    const places = (await this.ask("items")).rows.map((row) => row[0]);
    const at = places.indexOf(place);
    return { before: places[at - 1] ?? null, after: places[at + 1] ?? null };
  }
}

// What is large is packed: gzip in base64. Otherwise the value itself.
async function unpack(given) {
  if (!given || typeof given !== "object" || !("gzip" in given)) return given;
  const bytes = Uint8Array.from(atob(given.gzip), (sign) => sign.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// Filters and sorts rows as the server does it in SQL.
function arranged(rows, names, query, table, calls) {
  const at = Object.fromEntries(names.map((name, index) => [name, index]));
  const wanted = (query.search ?? "").normalize("NFC").toLowerCase();
  const has = (text) => text !== null && text !== undefined && String(text).toLowerCase().includes(wanted);
  const fits = [];
  if (query.outcome) fits.push((row) => (row[at.outcome] ?? "open") === query.outcome);
  for (const name of ["stage", "error_type", "cause"]) if (query[name]) fits.push((row) => row[at[name]] === query[name]);
  if (table === "calls") {
    for (const name of ["label", "model"]) if (query[name]) fits.push((row) => row[at[name]] === query[name]);
    if (query.again) fits.push((row) => row[at.attempt] > 1);
    if (wanted) fits.push((row) => [at.id, at.label, at.model, at.error].some((index) => has(row[index])));
  } else {
    const ofCalls = (test) => {
      if (!calls) return () => false;
      const place = calls.names.indexOf("place");
      const found = new Set(calls.rows.filter(test).map((row) => row[place]));
      return (row) => found.has(row[at.place]);
    };
    const column = (name) => calls?.names.indexOf(name);
    for (const name of ["label", "model"]) if (query[name]) fits.push(ofCalls((row) => row[column(name)] === query[name]));
    if (query.again) fits.push((row) => row[at.tries] > 1);
    if (wanted) {
      const inCalls = ofCalls((row) => has(row[column("label")]) || has(row[column("model")]) || has(row[column("error")]));
      fits.push((row) => [at.id, at.error, at.stage].some((index) => has(row[index])) || inCalls(row));
    }
  }
  const found = rows.filter((row) => fits.every((fit) => fit(row)));
  const down = (query.sort ?? "").startsWith("-") ? -1 : 1;
  const name = (query.sort ?? "").replace("-", "");
  const value = valueOf(name, at, table);
  if (value) {
    found.sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === null || y === null) return x === y ? 0 : x === null ? 1 : -1;
      return (x < y ? -1 : x > y ? 1 : 0) * down;
    });
  }
  return found;
}

function valueOf(name, at, table) {
  if (name === "seconds") return (row) => (row[at.ended] === null || row[at.started] === null ? null : row[at.ended] - row[at.started]);
  if (name === "waited" && table === "calls") return (row) => row[at.slot_seconds] + row[at.rate_seconds] + row[at.retry_seconds];
  return name in at ? (row) => row[at[name]] ?? null : null;
}

export function openSource() {
  const given = JSON.parse(document.getElementById("data").textContent);
  return given.kind === "server" ? new ServerSource(given) : new FileSource(given);
}
