// Where answers come from: the local server, or the files of a site. Both have the same methods.

const decode = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

export function column(answer) {
  const bytes = decode(answer.data);
  return answer.labels === null ? { numbers: new Float32Array(bytes.buffer), labels: null } : { codes: bytes, labels: answer.labels };
}

export const bits = (text) => decode(text);

class Remote {
  live = true;

  async ask(path, parameters = {}, options = {}) {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(parameters)) {
      for (const one of Array.isArray(value) ? value : [value]) if (one !== undefined && one !== null) query.append(name, one);
    }
    const text = query.toString();
    const answer = await fetch(`api/${path}${text ? "?" + text : ""}`, options);
    const body = await answer.json().catch(() => ({ problem: `the server answered ${answer.status}` }));
    if (!answer.ok) throw new Error(body.problem ?? (body.detail ? JSON.stringify(body.detail) : `the server answered ${answer.status}`));
    return body;
  }

  runs() { return this.ask("runs"); }
  about(run) { return this.ask(`runs/${encodeURIComponent(run)}`); }
  of(run, what, parameters) { return this.ask(`runs/${encodeURIComponent(run)}/${what}`, parameters); }
  sentences(run) { return this.of(run, "sentences"); }
  figure(run, name) { return this.of(run, `figures/${name}`); }
  rows(run, { filters, sort, descending, offset, limit }) { return this.of(run, "rows", { filter: filters, sort, descending, offset, limit }); }
  async mask(run, filters) { return bits((await this.of(run, "mask", { filter: filters })).data); }
  async values(run, names) {
    const answer = await this.of(run, "values", { name: names });
    return Object.fromEntries(Object.entries(answer).map(([name, one]) => [name, column(one)]));
  }
  async heat(run, { filters, sort, descending, rows }) {
    const answer = await this.of(run, "heat", { filter: filters, sort, descending, rows });
    return { ...answer, data: decode(answer.data) };
  }
  feature(run, feature) { return this.of(run, `features/${feature}`); }
  examples(run, feature) { return this.of(run, `features/${feature}`, { section: "examples" }); }
  progress(run) { return this.of(run, "progress"); }
  settings(run) { return this.of(run, "settings"); }
  compare(a, b) { return this.ask("compare", { a, b }); }
  text(run, text) {
    return this.ask(`runs/${encodeURIComponent(run)}/text`, {}, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ text }) });
  }
  file(run, what) { return `api/runs/${encodeURIComponent(run)}/${what}`; }
}

const OPERATIONS = ["eq", "ne", "lt", "le", "gt", "ge", "in", "has", "known"];

// a filter's value as its column holds them: numbers are kept in single precision; null where it is no such value
function read(kind, text) {
  const plain = text.trim().toLowerCase();
  if (kind === "flag") return ["true", "1"].includes(plain) ? true : ["false", "0"].includes(plain) ? false : null;
  if (kind !== "number") return text;
  return plain === "" || Number.isNaN(Number(plain)) ? null : Math.fround(Number(plain));
}

// A site holds what the server would say as scripts that hand over a value each; filters and sorting are done here.
class Site {
  live = false;
  held = new Map();

  constructor(index) { this.index = index; }

  load(key) {
    if (!this.held.has(key)) {
      this.held.set(key, new Promise((resolve, reject) => {
        window.ontogeny.waiting.set(key, resolve);
        const script = document.createElement("script");
        script.src = `data/${key}.js`;
        script.onerror = () => reject(new Error(`data/${key}.js is not there: was the whole folder copied?`));
        document.head.append(script);
      }));
    }
    return this.held.get(key);
  }

  async runs() { return this.index.runs; }
  about(run) { return this.load(`${run}/about`); }
  sentences(run) { return this.load(`${run}/sentences`); }
  figure(run, name) { return this.load(`${run}/figure-${name}`); }
  progress(run) { return this.load(`${run}/progress`); }
  settings(run) { return this.load(`${run}/settings`); }
  compare(a, b) { return this.load(`compare-${a}-${b}`); }
  async feature(run, feature) {
    const { per_file: size } = this.index;
    const group = await this.load(`${run}/features-${Math.floor(feature / size)}`);
    const found = group[feature % size];
    if (!found) throw new Error(`no feature ${feature} in this site`);
    return found;
  }
  examples(run, feature) { return this.feature(run, feature); }
  async columns(run) {
    const held = await this.load(`${run}/values`);
    return Object.fromEntries(Object.entries(held).map(([name, one]) => [name, { ...column(one), texts: one.texts ?? null }]));
  }
  async value(run) {
    const columns = await this.columns(run);
    const about = await this.about(run);
    const kinds = Object.fromEntries(about.columns.map((one) => [one.name, one.kind]));
    return (name, row) => {
      const one = columns[name];
      if (one === undefined) throw new Error(`no column '${name}' in this site`);
      if (one.texts) return one.texts[row];
      if (one.labels) return one.codes[row] === 255 ? null : one.labels[one.codes[row]];
      const value = one.numbers[row];
      return Number.isNaN(value) ? null : kinds[name] === "flag" ? value > 0 : value;
    };
  }
  async chosen(run, filters, sort = "feature", descending = false) {
    const value = await this.value(run);
    const kinds = Object.fromEntries((await this.about(run)).columns.map((one) => [one.name, one.kind]));
    const tests = filters.map((filter) => {
      const [, name, operation, text] = filter.match(/^([^:]*)(?::([^:]*))?:?([^]*)$/);
      if (!(name in kinds)) throw new Error(`no column '${name}'`);
      if (!OPERATIONS.includes(operation)) throw new Error(`no operation '${operation ?? ""}' in '${filter}': there are ${OPERATIONS.join(", ")}`);
      const wanted = read(kinds[name], text), some = text.split(",").map((one) => read(kinds[name], one));
      return (row) => {
        const found = value(name, row);
        if (found === null) return false;
        if (operation === "known") return true;
        if (operation === "has") return String(found).toLowerCase().includes(text.toLowerCase());
        if (operation === "in") return some.includes(found);
        if (wanted === null) return false;
        return { eq: found === wanted, ne: found !== wanted, lt: found < wanted, le: found <= wanted, gt: found > wanted, ge: found >= wanted }[operation];
      };
    });
    const { features } = await this.about(run);
    const kept = Array.from({ length: features }, (_, row) => row).filter((row) => tests.every((test) => test(row)));
    const sign = descending ? -1 : 1;
    return kept.sort((a, b) => {
      const [x, y] = [value(sort, a), value(sort, b)];
      if (x === y) return a - b;
      if (x === null || y === null) return x === null ? 1 : -1;
      return x < y ? -sign : sign;
    });
  }
  async rows(run, { filters, sort, descending, offset = 0, limit = 50 }) {
    const chosen = await this.chosen(run, filters, sort, descending);
    const value = await this.value(run);
    const names = (await this.about(run)).columns.map((one) => one.name);
    const rows = chosen.slice(offset, offset + limit).map((row) => Object.fromEntries(names.map((name) => [name, value(name, row)])));
    return { rows, total: chosen.length };
  }
  async mask(run, filters) {
    const { features } = await this.about(run);
    const held = new Uint8Array(Math.ceil(features / 8));
    for (const row of await this.chosen(run, filters)) held[row >> 3] |= 1 << (row & 7);
    return held;
  }
  async values(run, names) {
    const columns = await this.columns(run);
    return Object.fromEntries(names.map((name) => [name, columns[name]]));
  }
  async heat(run, { filters, sort, descending, rows }) {
    const chosen = await this.chosen(run, filters, sort, descending);
    const strengths = decode(await this.load(`${run}/strengths`));
    const n = (await this.about(run)).steps.length;
    const count = Math.min(rows, chosen.length);
    const data = new Uint8Array(count * n), features = [];
    for (let row = 0; row < count; row++) {
      const [start, end] = [Math.floor((row * chosen.length) / count), Math.floor(((row + 1) * chosen.length) / count)];
      features.push(chosen[start]);
      for (let at = 0; at < n; at++) {
        let sum = 0;
        for (let place = start; place < end; place++) sum += strengths[chosen[place] * n + at];
        data[row * n + at] = Math.round(sum / (end - start));
      }
    }
    return { data, features, total: chosen.length };
  }
  file() { return null; }
}

export const source = window.ontogeny?.index ? new Site(window.ontogeny.index) : new Remote();
