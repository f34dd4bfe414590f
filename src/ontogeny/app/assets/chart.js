// Vega-Lite figures, drawn when they come near the screen, in the theme's colours, each to be taken away as SVG or PNG.
import { fill, h, problem } from "./dom.js";
import { isDark } from "./colour.js";
import { parse } from "./route.js";

function theme(dark = isDark()) {
  const [ink, soft, line] = dark ? ["#e6e8eb", "#a3abb6", "#363c45"] : ["#1c1e21", "#4a515c", "#dfe3e8"];
  return {
    background: null, title: { color: ink, subtitleColor: soft }, axis: { labelColor: soft, titleColor: ink, gridColor: line, domainColor: soft, tickColor: soft },
    legend: { labelColor: soft, titleColor: ink, orient: "bottom", columns: 4, labelLimit: 260 }, header: { labelColor: ink, titleColor: ink }, text: { color: ink }, rule: { color: soft }, view: { stroke: line },
  };
}

function merged(base, more) {
  const both = { ...base };
  for (const [name, value] of Object.entries(more ?? {})) {
    both[name] = value && typeof value === "object" && !Array.isArray(value) ? merged(base?.[name] ?? {}, value) : value;
  }
  return both;
}

let loading = null;

// Vega is large and most views need it late or not at all
function vega() {
  loading ??= new Promise((resolve, reject) => {
    const script = h("script", { src: "vega.js", onload: () => resolve(window.vegaEmbed), onerror: () => reject(new Error("vega.js cannot be read")) });
    document.head.append(script);
  });
  return loading;
}

const DRAWN = 620, BESIDE = 80, LETTERS = { text: 7.6, subtitle: 6 };

function lines(text, width) {
  if (typeof text !== "string" && !Array.isArray(text)) return text;
  const found = [""];
  for (const word of [text].flat().join(" ").split(" ")) {
    const last = found[found.length - 1];
    if (last && last.length + word.length >= width) found.push(word);
    else found[found.length - 1] = last ? `${last} ${word}` : word;
  }
  return found;
}

// the figures of the report are as wide as its page; here a column may be narrower
function fitted(node, share) {
  if (node === null || typeof node !== "object") return node;
  if (Array.isArray(node)) return node.map((one) => fitted(one, share));
  const copy = { ...node };
  for (const part of ["layer", "vconcat", "hconcat", "concat", "spec"]) if (copy[part]) copy[part] = fitted(copy[part], share);
  if (typeof copy.width === "number" && copy.width > DRAWN * share) copy.width = Math.round(copy.width * share);
  const least = Math.min(DRAWN * share, (copy.width ?? DRAWN) + BESIDE / 2);
  for (const [name, letter] of Object.entries(LETTERS))
    if (copy.title?.[name]) copy.title = { ...copy.title, [name]: lines(copy.title[name], least / letter) };
  return copy;
}

// for paper: dark on a white ground whatever the page's theme
async function save(spec, options, name, kind) {
  const embed = await vega();
  const { view, finalize } = await embed(h("div"), { ...spec, config: { ...merged(spec.config ?? {}, theme(false)), background: "white" } }, options);
  const address = kind === "svg" ? URL.createObjectURL(new Blob([await view.toSVG()], { type: "image/svg+xml" })) : await view.toImageURL("png", 2);
  h("a", { href: address, download: `${parse().run}-${name}.${kind}` }).click();
  finalize();
  if (kind === "svg") URL.revokeObjectURL(address);
}

async function draw(figure, name, spec) {
  const place = h("div");
  try {
    const options = { actions: false, ast: true, renderer: "canvas", defaultStyle: false, tooltip: { disableDefaultStyle: true } };
    const narrow = fitted(spec, Math.min(1, (figure.clientWidth - BESIDE) / DRAWN));
    const embed = await vega();
    await embed(place, { ...narrow, config: merged(spec.config ?? {}, theme()) }, options);
    const tool = (kind) => h("button", { class: "plain", type: "button", onclick: () => save(narrow, options, name, kind) }, kind.toUpperCase());
    fill(figure, place, h("div", { class: "tools" }, tool("svg"), tool("png")));
  } catch (error) {
    fill(figure, problem(`${name}: ${error.message}`));
  }
}

const near = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) { near.unobserve(entry.target); entry.target.drawNow(); }
}, { rootMargin: "400px" });

// spec: a specification, or a function that promises one
export function chart(name, spec) {
  const figure = h("figure", { "data-figure": name }, h("p", { class: "soft" }, `${name} …`));
  figure.drawNow = async () => {
    try {
      await draw(figure, name, typeof spec === "function" ? await spec() : spec);
    } catch (error) {
      fill(figure, problem(error.message));
    }
  };
  near.observe(figure);
  return figure;
}

// the axis of steps that all our own charts share
export const stepAxis = (steps, title = "pre-training step") => ({
  field: "step", type: "quantitative", title,
  scale: { type: "symlog", constant: 1, domain: [steps[0], steps[steps.length - 1]], nice: false },
  axis: { values: spread(steps, 8), labelExpr: "datum.value < 1000 ? datum.value : datum.value / 1000 + 'k'", grid: false, labelOverlap: true },
});

function spread(steps, count) {
  if (steps.length <= count) return steps;
  const logs = steps.map((step) => Math.log1p(step)), last = logs.length - 1;
  const targets = Array.from({ length: count }, (_, at) => logs[0] + ((logs[last] - logs[0]) * at) / (count - 1));
  return [...new Set(targets.map((target) => steps[logs.reduce((best, log, at) => (Math.abs(log - target) < Math.abs(logs[best] - target) ? at : best), 0)]))];
}
