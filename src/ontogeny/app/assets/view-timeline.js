// Strength of features over the snapshots, a row each or the mean of several.
import { VIRIDIS, css } from "./colour.js";
import { add, debounce, fill, h, number, problem, steps, turns, words } from "./dom.js";
import { columnPicker, filterBar } from "./filters.js";
import { address, note } from "./route.js";

const MOST_ROWS = 600;

export async function timeline(root, { run, about, route, source, isCurrent }) {
  const columns = about.columns, names = columns.map((column) => column.name);
  if (!columns.length) return void add(root, [h("h1", {}, "Timeline"), problem(about.missing.features ?? "there are no features yet")]);
  const { query } = route;
  const state = { filters: query.has("filter") ? query.getAll("filter") : ["dead:eq:false"], sort: names.includes(query.get("sort")) ? query.get("sort") : "birth_step", descending: query.get("descending") !== "false" };
  const canvas = h("canvas", { tabIndex: 0, role: "img", "aria-label": "heat map: up and down choose a row, Enter opens its feature" });
  const plot = h("div", { class: "plot" }, canvas), tip = h("div", { class: "tip", hidden: true }), said = h("p", { role: "status" }), axis = h("div", { class: "soft mono" });
  plot.append(tip);
  let heat = null, row = -1;

  const loading = turns(isCurrent);
  async function load() {
    const isLatest = loading();
    try {
      const found = await source.heat(run, { filters: state.filters, sort: state.sort, descending: state.descending, rows: MOST_ROWS });
      if (!isLatest()) return;
      heat = found;
    } catch (error) { return void (isLatest() && fill(said, problem(error.message))); }
    const n = about.steps.length, rows = heat.features.length;
    canvas.width = n;
    canvas.height = Math.max(rows, 1);
    const context = canvas.getContext("2d"), image = context.createImageData(n, Math.max(rows, 1)), pixels = new Uint32Array(image.data.buffer);
    for (let at = 0; at < heat.data.length; at++) pixels[at] = VIRIDIS[heat.data[at]];
    context.putImageData(image, 0, 0);
    const each = rows < heat.total ? `; each row the mean of about ${Math.round(heat.total / rows)}` : "";
    fill(said, `${heat.total.toLocaleString("en")} features, ordered by ${words(state.sort)}${each}.`);
    plot.dataset.total = heat.total;
  }

  function show(at, place) {
    row = at;
    tip.hidden = at < 0 || !heat || at >= heat.features.length;
    if (tip.hidden) return;
    const n = about.steps.length, box = plot.getBoundingClientRect(), column = place ? Math.min(n - 1, Math.max(0, Math.floor((place.x / box.width) * n))) : n - 1;
    const next = heat.features[at + 1];
    const many = heat.features.length < heat.total ? `features ${at === 0 ? "from" : "about"} ${heat.features[at]}${next === undefined ? "" : ""}` : `feature ${heat.features[at]}`;
    fill(tip, h("b", {}, many), h("div", {}, `step ${steps(about.steps[column])}: ${number(heat.data[at * n + column] / 255)} of the greatest strength`));
    tip.style.setProperty("left", `${Math.min(place ? place.x + 14 : 14, box.width - 260)}px`);
    tip.style.setProperty("top", `${Math.min(place ? place.y + 14 : ((at + 1) / heat.features.length) * box.height, box.height - 60)}px`);
  }
  const open = () => { if (heat && row >= 0 && row < heat.features.length) location.hash = address({ run, view: "feature", argument: heat.features[row] }); };
  const under = (event) => {
    const box = plot.getBoundingClientRect(), place = { x: event.clientX - box.left, y: event.clientY - box.top };
    return [heat ? Math.floor((place.y / box.height) * heat.features.length) : -1, place];
  };
  canvas.addEventListener("pointermove", (event) => show(...under(event)));
  canvas.addEventListener("pointerleave", () => show(-1));
  canvas.addEventListener("click", (event) => { show(...under(event)); open(); });
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowDown: 1, ArrowUp: -1, PageDown: 20, PageUp: -20 }[event.key];
    if (move !== undefined && heat) { event.preventDefault(); show(Math.min(heat.features.length - 1, Math.max(0, row + move)), null); }
    else if (event.key === "Enter") open();
  });

  const bar = filterBar(columns, state.filters, debounce((filters) => { state.filters = filters; note({ filter: filters }); load(); }, 10));
  const sortBy = (name) => { state.sort = name; note({ sort: name }); load(); };
  const turn = h("button", { type: "button", "aria-pressed": String(state.descending), onclick: () => { state.descending = !state.descending; turn.setAttribute("aria-pressed", String(state.descending)); note({ descending: state.descending ? null : "false" }); load(); } }, "turn over");
  const save = h("button", { type: "button", onclick: () => h("a", { href: canvas.toDataURL("image/png"), download: "timeline.png" }).click() }, "PNG");
  const shown = about.steps.map((step, at) => ({ step, at })).filter(({ at }) => at % Math.ceil(about.steps.length / 11) === 0 || at === about.steps.length - 1);
  fill(axis, h("div", { style: { position: "relative", height: "22px" } }, shown.map(({ step, at }) => h("span", { style: { position: "absolute", left: `${((at + 0.5) / about.steps.length) * 100}%`, transform: "translateX(-50%)" } }, step < 1000 ? step : `${step / 1000}k`))));
  const ramp = h("span", { class: "legend" }, h("span", {}, "strength, share of a feature's greatest: 0 "), [0, 64, 128, 191, 255].map((at) => h("i", { style: { background: css(VIRIDIS[at]) } })), "1");
  add(root, [h("div", { class: "bar" }, h("h1", {}, "Timeline"), columnPicker("order by", columns, state.sort, sortBy), turn, save, ramp), bar, said, plot, axis, h("p", { class: "soft" }, "pre-training step of the snapshot →   features ↓   A click opens a feature.")]);
  await load();
}
