// Every feature a point, beside the list of those that the filters let through.
import { css, faint, PALETTE, ramp, WORDS } from "./colour.js";
import { add, debounce, fill, h, number, problem, redraw, table, turns, words } from "./dom.js";
import { leading } from "./examples.js";
import { columnPicker, filterBar } from "./filters.js";
import { address, note } from "./route.js";
import { Scatter } from "./scatter.js";

const PAGE = 25;

export async function atlas(root, { run, about, route, source, isCurrent }) {
  const columns = about.columns, names = columns.map((column) => column.name);
  if (!columns.length) return void add(root, [h("h1", {}, "Atlas"), problem(about.missing.features ?? "there are no features yet")]);
  const kinds = Object.fromEntries(columns.map((column) => [column.name, column.kind])), drawn = names.filter((name) => kinds[name] !== "text");
  const pickFrom = (wanted, ...others) => [wanted, ...others, ...drawn].find((name) => drawn.includes(name));
  const { query } = route;
  const state = {
    x: pickFrom(query.get("x"), "map_1", "birth_step"), y: pickFrom(query.get("y"), "map_2", "density"), colour: pickFrom(query.get("colour"), "birth_step"),
    filters: query.getAll("filter"), sort: names.includes(query.get("sort")) ? query.get("sort") : "max_strength", descending: query.get("descending") !== "false", page: Number(query.get("page") ?? 0),
    logs: query.get("log") ?? "",
  };
  const tip = h("div", { class: "tip", hidden: true }), legend = h("div", { class: "legend" }), total = h("p", { role: "status" }), list = h("div"), plot = h("div", { class: "plot" }), axes = h("p", { class: "soft" });
  const held = new Map();
  const values = async (wanted) => {
    const missing = [...new Set(wanted)].filter((name) => !held.has(name));
    if (missing.length) for (const [name, one] of Object.entries(await source.values(run, missing))) held.set(name, one);
    return wanted.map((name) => held.get(name));
  };
  const numbers = (one, log) => {
    if (one.labels) return Float32Array.from(one.codes, (code) => (code === 255 ? NaN : code));
    return log ? one.numbers.map((value) => Math.log10(1 + Math.max(value, 0) * (log === "density" ? 1e6 : 1))) : one.numbers;
  };
  const isLog = (name) => /step$/.test(name) ? "step" : name === "density" ? "density" : "";

  const scatter = new Scatter(plot, {
    onhover: (one, at) => hover(one, at),
    onpick: (one) => { location.hash = address({ run, view: "feature", argument: one }); },
    onbrush: (box) => brushed(box),
  });
  plot.append(tip);
  window.ontogenyScatter = scatter;

  let fires = null, pointed = -1;
  const around = h("div", { class: "around" });
  const contextOf = debounce(async (one) => {
    try {
      const page = await source.examples(run, one);
      if (one === pointed) fill(around, leading(page));
    } catch { /* the other lines stand without it */ }
  }, 120);
  function hover(one, at) {
    tip.hidden = one < 0;
    if (one !== pointed) {
      fill(around);
      pointed = one;
      if (one >= 0) contextOf(one);
    }
    if (one < 0) return;
    const [x, y, colour] = [state.x, state.y, state.colour].map((name) => held.get(name));
    const value = (column) => (column.labels ? column.labels[column.codes[one]] ?? "–" : number(column.numbers[one]));
    fill(tip, h("b", {}, `feature ${one}`), h("div", {}, fires?.get(one) ?? ""), around, [[state.x, x], [state.y, y], [state.colour, colour]].map(([name, column]) => h("div", { class: "soft" }, `${words(name)}: ${value(column)}`)));
    const box = plot.getBoundingClientRect();
    tip.style.setProperty("left", `${Math.min(at ? at.x + 14 : 14, box.width - 330)}px`);
    tip.style.setProperty("top", `${Math.min(at ? at.y + 14 : 14, box.height - 150)}px`);
  }

  function brushed(box) {
    const back = (name, value) => (isLog(name) === "step" ? 10 ** value - 1 : isLog(name) === "density" ? (10 ** value - 1) / 1e6 : value);
    const flag = (name, low, high) => (low > 0 ? [`${name}:eq:true`] : high < 1 ? [`${name}:eq:false`] : []);
    const axis = (name, low, high) => (held.get(name).labels ? [] : kinds[name] === "flag" ? flag(name, low, high) : [`${name}:ge:${back(name, low).toPrecision(6)}`, `${name}:le:${back(name, high).toPrecision(6)}`]);
    bar.setFilters([...state.filters, ...axis(state.x, box.left, box.right), ...axis(state.y, box.bottom, box.top)]);
  }

  function coloured(one) {
    if (one.labels) {
      fill(legend, one.labels.map((label, at) => h("span", {}, h("i", { style: { background: PALETTE[at % PALETTE.length] } }), label)));
      return Uint32Array.from(one.codes, (code) => (code === 255 ? faint() : WORDS[code % WORDS.length]));
    }
    const log = isLog(state.colour), scaled = numbers(one, log);
    let [low, high] = [Infinity, -Infinity];
    for (const value of scaled) { if (value < low) low = value; if (value > high) high = value; }
    const strip = h("canvas", { class: "ramp", width: 256, height: 1 });
    const context = strip.getContext("2d"), image = context.createImageData(256, 1);
    new Uint32Array(image.data.buffer).set(Array.from({ length: 256 }, (_, at) => ramp(at / 255)));
    context.putImageData(image, 0, 0);
    let [least, most] = [Infinity, -Infinity];
    for (const value of one.numbers) { if (value < least) least = value; if (value > most) most = value; }
    fill(legend, h("span", {}, `${words(state.colour)}${log ? " (log)" : ""}: ${number(least)} `, strip, ` ${number(most)}`), h("span", {}, h("i", { style: { background: css(faint()) } }), "unknown"));
    return Uint32Array.from(scaled, (value) => (Number.isNaN(value) ? faint() : ramp(high > low ? (value - low) / (high - low) : 0.5)));
  }

  const [placing, filtering, listing] = [turns(isCurrent), turns(isCurrent), turns(isCurrent)];

  async function place({ fresh = true } = {}) {
    const isLatest = placing();
    const [x, y, colour] = await values([state.x, state.y, state.colour]);
    if (!isLatest()) return;
    if (fresh) scatter.view = undefined;
    scatter.set({ x: numbers(x, isLog(state.x)), y: numbers(y, isLog(state.y)), colour: coloured(colour) });
    const title = (name) => `${words(name)}${isLog(name) ? " (log)" : ""}`;
    fill(axes, `→ ${title(state.x)}   ↑ ${title(state.y)}. Wheel zooms, dragging moves, shift-dragging selects.`);
  }

  async function filtered() {
    const isLatest = filtering();
    const mask = state.filters.length ? await source.mask(run, state.filters) : null;
    if (isLatest()) scatter.hold(mask);
  }

  async function listed() {
    const isLatest = listing();
    try {
      const { rows, total: count } = await source.rows(run, { filters: state.filters, sort: state.sort, descending: state.descending, offset: state.page * PAGE, limit: PAGE });
      if (!isLatest()) return;
      fires ??= new Map();
      for (const row of rows) fires.set(row.feature, row.fires_on ?? "");
      const shown = ["feature", "fires_on", state.sort].filter((name, at, all) => names.includes(name) && all.indexOf(name) === at);
      const specs = shown.map((name) => ({ name, text: name === "fires_on", link: name === "feature" ? (row) => address({ run, view: "feature", argument: row.feature }) : undefined }));
      const turnTo = (page) => { state.page = page; note({ page: page || null }); listed(); };
      const last = Math.max(0, Math.ceil(count / PAGE) - 1);
      total.dataset.total = count;
      fill(total, `${count.toLocaleString("en")} of ${about.features.toLocaleString("en")} features`);
      redraw(list, count ? null : h("p", { class: "soft" }, "Nothing fits all filters: take one away, or read a text of yours in Try text."), table(specs, rows, { sort: state.sort, descending: state.descending, onsort: sortBy }),
        h("div", { class: "bar" }, h("button", { type: "button", disabled: state.page === 0, onclick: () => turnTo(state.page - 1), "aria-label": "earlier" }, "‹"),
          `${state.page + 1} / ${last + 1}`, h("button", { type: "button", disabled: state.page >= last, onclick: () => turnTo(state.page + 1), "aria-label": "later" }, "›")));
    } catch (error) { if (isLatest()) fill(list, problem(error.message)); }
  }

  const sortBy = (name) => {
    state.descending = state.sort === name ? !state.descending : true;
    Object.assign(state, { sort: name, page: 0 });
    note({ sort: name, descending: state.descending ? null : "false", page: null });
    listed();
  };
  const bar = filterBar(columns, state.filters, debounce(async (filters) => {
    Object.assign(state, { filters, page: 0 });
    note({ filter: filters, page: null });
    try { await Promise.all([filtered(), listed()]); } catch (error) { fill(list, problem(error.message)); }
  }, 10));
  const change = (which, fresh) => async (name) => { state[which] = name; note({ [which]: name }); await place({ fresh }); };
  const select = h("button", { type: "button", "aria-pressed": "false", onclick: (event) => { scatter.brushing = !scatter.brushing; event.target.setAttribute("aria-pressed", String(scatter.brushing)); } }, "select");
  add(root, [
    h("div", { class: "bar" }, h("h1", {}, "Atlas"), columnPicker("across", columns, state.x, change("x", true)), columnPicker("up", columns, state.y, change("y", true)), columnPicker("colour", columns, state.colour, change("colour", false)), select,
      h("button", { type: "button", onclick: () => scatter.all() }, "show all")),
    bar,
    h("div", { class: "atlas" }, h("div", {}, legend, plot, axes), h("div", {}, h("div", { class: "bar" }, columnPicker("sort by", columns, state.sort, sortBy)), total, list)),
  ]);
  await Promise.all([place(), state.filters.length ? filtered().catch((error) => fill(list, problem(error.message))) : null, listed()]);
  return () => scatter.stop();
}
