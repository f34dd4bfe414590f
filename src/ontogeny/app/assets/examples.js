// Contexts in which a feature is active, its activations as shades.
import { h, number } from "./dom.js";

const BEFORE = 9, AFTER = 3;

const greatestOf = (example) => Math.max(...example.activations, 1e-12);

function shaded(example, greatest) {
  return example.texts.map((text, place) => {
    const value = example.activations[place];
    return h("span", value > 0 ? { style: { background: `rgba(var(--mark), ${(0.15 + (0.75 * value) / greatest).toFixed(2)})` }, title: number(value) } : {}, text);
  });
}

// the first `most` of them, a line each
export function contexts(examples, most) {
  const shown = [...examples].sort((a, b) => a.rank - b.rank).slice(0, most);
  const greatest = Math.max(...shown.map(greatestOf));
  return shown.map((one) => h("div", { class: "example", title: `sequence ${one.sequence}, position ${one.position}` }, shaded(one, greatest)));
}

// a few tokens around where a feature is most active of all; null where no examples were kept
export function leading(page) {
  const tops = (page.examples ?? []).filter((one) => one.kind === "top");
  if (!tops.length) return null;
  const last = Math.max(...tops.map((one) => one.snapshot ?? -1));
  const best = tops.filter((one) => (one.snapshot ?? -1) === last).reduce((a, b) => (a.rank <= b.rank ? a : b));
  const at = best.activations.indexOf(Math.max(...best.activations)), from = Math.max(0, at - BEFORE);
  const cut = (list) => list.slice(from, at + AFTER + 1);
  return shaded({ texts: cut(best.texts).map((text) => text.replaceAll("\n", "⏎")), activations: cut(best.activations) }, greatestOf(best));
}
