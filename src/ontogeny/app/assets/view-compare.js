// Two runs side by side: seeds, layers, a crosscoder and a series.
import { chart, stepAxis } from "./chart.js";
import { add, h, number, problem, steps, table } from "./dom.js";
import { address, note } from "./route.js";

export async function compare(root, { run, runs, route, source }) {
  add(root, [h("h1", {}, "Compare")]);
  const others = runs.filter((one) => one.id !== run);
  if (!others.length) return void add(root, [h("p", {}, "There is one run here. Serve several at once: "), h("pre", {}, `ontogeny serve runs/${run} runs/another`)]);
  const other = others.find((one) => one.id === route.query.get("with"))?.id ?? others[0].id;
  const pick = h("select", { "aria-label": "the other run", onchange: () => { location.hash = address({ run, view: "compare", query: [["with", pick.value]] }); } }, others.map((one) => h("option", { value: one.id, selected: one.id === other }, one.id)));
  note({ with: other });
  add(root, [h("p", {}, h("b", {}, run), " and ", pick)]);
  const found = await source.compare(run, other);
  const ids = [run, other], facts = Object.keys(found.runs[0]).map((name) => ({ what: name, [run]: found.runs[0][name], [other]: found.runs[1][name] }));
  const curve = (title, lists, field, y, format) => {
    const values = lists.flatMap((list, at) => list.map((one) => ({ run: ids[at], step: one.step, value: one[field] })));
    if (!values.length) return null;
    const all = [...new Set(values.map((one) => one.step))].sort((a, b) => a - b);
    return chart(`compare-${field}`, {
      $schema: "https://vega.github.io/schema/vega-lite/v6.json", width: 480, height: 240, title, data: { values }, mark: { type: "line", point: true },
      encoding: { x: stepAxis(all), y: { field: "value", type: "quantitative", title: y, scale: { zero: field !== "explained_variance" } }, color: { field: "run", type: "nominal", sort: ids, scale: { domain: ids, range: ["#0072B2", "#E69F00"] } }, tooltip: [{ field: "run" }, { field: "step" }, { field: "value", format }] },
    });
  };
  add(root, [
    h("div", { class: "figures" }, curve("Emergent features born so far", found.births, "share", "share of living features", ".3f"), curve("How well the dictionaries explain each snapshot", found.quality, "explained_variance", "explained variance", ".4f")),
    h("h2", {}, "The same features?"),
    found.problem ? problem(found.problem) : matched(found.matched, ids),
    h("h2", {}, "Settings"), table([{ name: "what" }, { name: run }, { name: other }], facts),
  ]);
}

function matched({ by, step, tokens, levels, pairs }, [run, other]) {
  const link = (id, which) => (row) => address({ run: id, view: "feature", argument: row[which] });
  const percent = (value) => (value === null ? "–" : `${number(100 * value)} %`);
  const between = (value, low, high, format) => (value === null ? "–" : `${format(value)} (${format(low)} to ${format(high)})`);
  const rows = levels.map((one) => ({
    ...one, matched: percent(one.matched), emergent_matched: percent(one.emergent_matched), births_same: between(one.births_same, one.births_same_ci_low, one.births_same_ci_high, percent), emergent_near: percent(one.emergent_near), births_spearman: between(one.births_spearman, one.births_spearman_ci_low, one.births_spearman_ci_high, number),
  }));
  return [
    h("p", {}, by === "cosine" ? `Features whose directions are each other's nearest at step ${steps(step)}.` : `The runs read different models or places, where directions mean nothing to each other. So these are features whose codes are each other's most correlated over ${number(tokens)} held-out tokens.`),
    table([{ name: "similarity", title: `${by} from` }, { name: "features", title: `features of ${run}` }, { name: "features_other", title: `of ${other}` }, { name: "matched" }, { name: "emergent_matched", title: "of the emergent" }, { name: "births_same", title: "of the matched, born at the same snapshot (95 % interval)" }, { name: "emergent", title: "emergent in either" }, { name: "emergent_near", title: "of these, born within one snapshot" }, { name: "emergent_both", title: "emergent in both" }, { name: "births_spearman", title: "rank correlation of their births (95 % interval)" }], rows),
    h("details", {}, h("summary", {}, `${pairs.length} pairs, the nearest first`),
      table([{ name: "feature", title: run, link: link(run, "feature") }, { name: "other", title: other, link: link(other, "other") }, { name: "similarity", title: by }, { name: "birth_step", title: "born" }, { name: "birth_step_other", title: "born there" }], pairs.slice(0, 300))),
  ];
}
