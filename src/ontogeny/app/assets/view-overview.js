// The story of a run.
import { chart } from "./chart.js";
import { add, fill, h, number, problem, steps, table, words } from "./dom.js";
import { leading } from "./examples.js";
import { WORTH_A_LOOK } from "./filters.js";
import { address } from "./route.js";

export async function overview(root, { run, about, source }) {
  const { dictionary } = about;
  const facts = [
    ["snapshots", about.steps.length], ["from step", steps(about.steps[0])], ["to step", steps(about.steps.at(-1))], ["hookpoint", about.hookpoint],
    ["dictionary", dictionary.kind === "sae_series" ? "SAE series" : "crosscoder"], ["features", number(about.features)],
    ["activation", dictionary.activation + (["topk", "batch_topk"].includes(dictionary.activation) ? `, k = ${dictionary.k}` : "")],
  ];
  const said = await source.sentences(run);
  // births stand beside the story
  const leading = about.figures.flatMap((group) => group.figures).filter((name) => name === "births");
  const groups = about.figures.map((group) => ({ ...group, figures: group.figures.filter((name) => !leading.includes(name)) })).filter((group) => group.figures.length);
  add(root, [
    h("h1", {}, about.name), h("p", { class: "soft" }, studied(about)),
    h("div", { class: "facts" }, facts.map(([name, value]) => h("div", { class: "fact" }, h("b", {}, value), h("span", {}, name)))),
    Object.entries(about.missing).map(([name, why]) => problem(`${words(name)}: ${why}`)),
    h("div", { class: "two" },
      h("div", { class: "story" }, h("h2", {}, "In short"), said.problem ? problem(`the story cannot be told yet: ${said.problem}`) : null,
        said.sentences.map((one) => h("p", {}, one.text, " ", h("small", {}, one.tables.map((name) => [h("code", {}, name), " "]))))),
      h("div", {}, leading.map((name) => [h("h2", {}, "Births"), chart(name, () => source.figure(run, name))]))),
    about.columns.length ? await start(run, about, source) : null,
    groups.map((group) => [h("h2", {}, group.title), h("div", { class: "figures" }, group.figures.map((name) => chart(name, () => source.figure(run, name))))]),
  ]);
}

function studied({ suite, pretrained }) {
  return pretrained ? "a study that pre-trains its own model" : `a study of ${suite ?? "a suite that is not there yet"}`;
}

// features to look at first: the strongest of those that emerge
async function start(run, about, source) {
  const names = new Set(about.columns.map((column) => column.name));
  const strongest = (filters) => source.rows(run, { filters, sort: "max_strength", descending: true, limit: 8 });
  let filters = [...WORTH_A_LOOK, ...(names.has("trust") ? ["trust:ne:low"] : [])], what = "features that emerge and fire on .02 to 20 % of tokens";
  let { rows, total } = await strongest(filters);
  if (!total) {
    [filters, what] = [["dead:eq:false"], "living features; none that emerges fires on .02 to 20 % of tokens"];
    ({ rows, total } = await strongest(filters));
  }
  if (!total) return null;
  const around = (row) => {
    const place = h("span", { class: "around" }, "…");
    source.examples(run, row.feature).then((page) => fill(place, leading(page) ?? "–"), () => fill(place, "–"));
    return place;
  };
  const context = { name: "context", title: "most active in", show: around };
  const columns = ["feature", "fires_on", "birth_step", "fate", "trust", "kind", "effect_task", "density"].filter((name) => names.has(name)).map((name) => ({
    name, title: name === "fires_on" ? "fires mostly on" : undefined, text: name === "fires_on", link: name === "feature" ? (row) => address({ run, view: "feature", argument: row.feature }) : undefined,
  }));
  const all = address({ run, view: "atlas", query: filters.map((filter) => ["filter", filter]) });
  return [h("h2", {}, "Start here"), h("p", {}, `The strongest of the ${total.toLocaleString("en")} ${what}. `, h("a", { href: all }, "See them all in the Atlas"), "."), table(columns.toSpliced(names.has("fires_on") ? 2 : 1, 0, context), rows)];
}
