// One feature: its life, and what it reads, writes and does at each snapshot.
import { chart, stepAxis } from "./chart.js";
import { add, fill, h, number, problem, steps, table, words } from "./dom.js";
import { contexts } from "./examples.js";
import { WORTH_A_LOOK } from "./filters.js";
import { address, elsewhere, note } from "./route.js";

const CONTEXTS = 8, BLUE = "#0072B2", ORANGE = "#E69F00", GREEN = "#009E73";

export async function feature(root, { run, about, route, source }) {
  if (route.argument === null) {
    const strongest = async (filters) => (await source.rows(run, { filters, sort: "max_strength", descending: true, limit: 1 })).rows[0]?.feature;
    return elsewhere(address({ run, view: "feature", argument: (await strongest(WORTH_A_LOOK)) ?? (await strongest(["dead:eq:false"])) ?? 0 }));
  }
  const page = await source.feature(run, Number(route.argument));
  const { row } = page, at = Number(route.argument);
  const asked = page.steps.indexOf(Number(route.query.get("step") ?? -1));
  let snapshot = asked < 0 ? page.steps.length - 1 : asked;
  const to = (number_) => address({ run, view: "feature", argument: number_ });

  const badges = [["origin", row.origin], ["fate", row.fate], ["kind", row.kind], ["pattern", row.pattern && words(row.pattern)], ["level", row.level]].filter(([, value]) => value);
  const born = row.dead ? "silent on all measured tokens" : row.origin === "initial" ? `there at step ${steps(page.steps[0])}` : `born in (${steps(row.birth_after)}, ${steps(row.birth_step)}]`;
  const gone = row.death_step === null ? "" : `, gone by step ${steps(row.death_step)}`;

  const texts = h("div"), promoted = h("div", { class: "logits" }), now = h("b"), life = h("div");
  const slider = h("input", { type: "range", min: 0, max: page.steps.length - 1, value: snapshot, "aria-label": "snapshot", oninput: () => go(Number(slider.value)) });
  const play = h("button", { type: "button", "aria-label": "play through training", onclick: () => (timer ? pause() : run_()) }, "▶");
  let timer = null;
  const pause = () => { clearInterval(timer); timer = null; play.textContent = "▶"; };
  const run_ = () => { play.textContent = "❚❚"; if (snapshot === page.steps.length - 1) go(0); timer = setInterval(() => (snapshot < page.steps.length - 1 ? go(snapshot + 1) : pause()), 700); };

  function go(to_) {
    snapshot = to_;
    slider.value = to_;
    slider.setAttribute("aria-valuetext", `step ${page.steps[to_]}`);
    note({ step: to_ === page.steps.length - 1 ? null : page.steps[to_] });
    render();
  }

  function render() {
    const here = page.trajectory?.[snapshot];
    const fires = here && about.dictionary.kind === "sae_series" ? ` · fires on a share of ${number(here.firing_rate)}` : "";
    fill(now, `step ${steps(page.steps[snapshot])}`, here ? ` · strength ${number(here.strength_relative)} of its greatest${fires}` : "");
    if (page.examples) {
      const own = page.examples.filter((one) => one.kind === "own" && one.snapshot === snapshot);
      const ofSnapshot = page.examples.filter((one) => one.kind === "top" && one.snapshot === snapshot);
      const top = ofSnapshot.length ? ofSnapshot : page.examples.filter((one) => one.kind === "top" && one.snapshot === null);
      fill(texts,
        own.length ? [h("h3", {}, about.dictionary.kind === "sae_series" ? "Where this snapshot's SAE is most active" : "What this snapshot's own part of the code is greatest on"), contexts(own, CONTEXTS)] : null,
        top.length ? [h("h3", {}, ofSnapshot.length ? "Where it is most active at this snapshot" : about.dictionary.kind === "sae_series" ? "Where it is most active at any snapshot" : "Where it is most active (one code for all snapshots)"), contexts(top, CONTEXTS)] : null,
        !own.length && !top.length ? h("p", { class: "soft" }, "no examples were kept: it is silent, or the study asked for none") : null);
    } else fill(texts, problem(page.missing.examples));
    const logits = (page.logits ?? []).filter((one) => one.snapshot === snapshot);
    const list = (kind) => logits.filter((one) => one.kind === kind).map((one) => h("code", { title: number(one.effect) }, one.text));
    fill(promoted, logits.length ? [h("div", {}, h("small", {}, "raises "), list("promoted")), h("div", {}, h("small", {}, "lowers "), list("suppressed"))] : null);
  }

  // tasks on which it does something at some snapshot, with all their snapshots
  const told = new Set((page.effects ?? []).filter((one) => one.ci_low > 0 || one.ci_high < 0).map((one) => one.task));
  const effects = (page.effects ?? []).filter((one) => told.has(one.task));
  add(root, [
    h("div", { class: "bar" }, h("a", { href: to(Math.max(0, at - 1)), "aria-label": "feature before" }, "‹"), h("h1", {}, `Feature ${at}`), h("a", { href: to(Math.min(about.features - 1, at + 1)), "aria-label": "feature after" }, "›"), h("span", {}, row.fires_on ?? "")),
    h("p", {}, born, gone, row.revived ? ", alive again in between" : "", "; ", row.dead ? "" : `active on a share of ${number(row.density)} of tokens. `, badges.map(([name, value]) => h("span", { class: "badge", title: name }, value)), page.trust ? h("span", { class: `badge ${page.trust.level}` }, `trust: ${page.trust.level}`) : null),
    described(page.descriptions),
    page.trust ? h("p", { class: "soft" }, reasons(page.trust)) : null,
    Object.entries(page.missing).map(([name, why]) => problem(`${words(name)}: ${why}`)),
    h("div", { class: "two" },
      h("div", {}, life, h("div", { class: "slide" }, play, slider, now), promoted, texts),
      h("div", {}, relatives(page, to), effects.length ? [h("h2", {}, "What it does for tasks"), effectsChart(effects, page.steps)] : null, formation(page), h("h2", {}, "All that is known"), known(about, row))),
  ]);
  if (page.trajectory?.length) add(life, [chart(`feature-${at}`, trajectory(page)), h("p", { class: "soft" }, "A click on a name under the figure shows that line alone, shift-click several, a click beside them all.")]);
  render();
  return pause;
}

function reasons(trust) {
  const said = Array.isArray(trust.reasons) ? trust.reasons.join("; ") : trust.reasons;
  return said ? `Why: ${said}.` : "";
}

function described(found) {
  if (!found?.description) return null;
  const shown = found.detection.map((one) => `${number(one.accuracy)} ${one.by === "code" ? "on all" : `at step ${steps(one.step)}`}`);
  return h("p", {}, h("b", {}, found.description), " ", shown.length ? h("small", { title: "balanced accuracy of telling excerpts on which it is active by this description; .5 is chance" }, `tells its excerpts: ${shown.join(", ")}`) : null);
}

function trajectory(page) {
  const greatest = (name) => Math.max(...page.trajectory.map((one) => Math.abs(one[name] ?? 0)), 1e-12);
  const own = greatest("own_part"), rate = greatest("firing_rate");
  const values = page.trajectory.flatMap((one, at) => [
    { step: one.step, measure: "strength, share of its greatest", value: one.strength_relative },
    { step: one.step, measure: "own part of the code, share of its greatest", value: one.own_part === null ? null : one.own_part / own },
    { step: one.step, measure: "firing rate, share of its greatest", value: one.firing_rate / rate },
    { step: one.step, measure: "cosine of its direction with the last", value: page.cosine_last ? page.cosine_last[at] : null },
  ]).filter((one) => one.value !== null);
  const constant = new Set(page.trajectory.map((one) => one.firing_rate)).size === 1;
  const names = [...new Set(values.map((one) => one.measure))].filter((name) => !(constant && name.startsWith("firing")));
  const colours = { s: BLUE, o: ORANGE, f: "#56B4E9", c: GREEN };
  return {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json", width: 560, height: 230, data: { values: values.filter((one) => names.includes(one.measure)) },
    title: `Feature ${page.feature}${page.row.fires_on ? ` (${page.row.fires_on})` : ""} through pre-training`, mark: { type: "line", point: true },
    params: [{ name: "shown", select: { type: "point", fields: ["measure"] }, bind: "legend" }],
    encoding: {
      opacity: { condition: { param: "shown", value: 1 }, value: 0.06 },
      x: stepAxis(page.steps), y: { field: "value", type: "quantitative", title: "share, or cosine" },
      color: { field: "measure", type: "nominal", title: null, scale: { domain: names, range: names.map((name) => colours[name[0]]) }, legend: { orient: "bottom", columns: 2, labelLimit: 300 } },
      tooltip: [{ field: "step" }, { field: "measure" }, { field: "value", format: ".3f" }],
    },
  };
}

function effectsChart(effects, all) {
  const tasks = [...new Set(effects.map((one) => one.task))].slice(0, 8);
  return chart("effects-of-feature", {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json", width: 330, height: 170, data: { values: effects.filter((one) => tasks.includes(one.task)) }, title: "Effect on a task's margin (logit)",
    mark: { type: "line", point: true },
    encoding: { x: stepAxis(all), y: { field: "effect", type: "quantitative", title: "effect (logit)" }, color: { field: "task", type: "nominal", legend: { orient: "bottom", columns: 2 } }, tooltip: ["task", "step", "effect", "ci_low", "ci_high"].map((field) => ({ field })) },
  });
}

function relatives(page, to) {
  const line = (one, id, said) => h("a", { href: to(id) }, `${id} ${one.fires_on ?? ""} `, h("small", {}, said));
  const list = (title, all, which, said) => (all?.length ? [h("h3", {}, title), h("div", { class: "list" }, all.slice(0, 8).map((one) => line(one, one[which], said(one))))] : null);
  const kin = page.relatives ?? {};
  const parents = (kin.parent ?? []).filter((one) => one.label !== "novel");
  return [h("h2", {}, "Relatives"),
    list("Nearest earlier feature", parents, "parent", (one) => `${one.label}, kinship ${number(one.kinship)}`),
    list("Later features nearest to it", kin.children, "feature", (one) => `${one.label}, born ${steps(one.birth_step)}`),
    list("Once one direction with", kin.partings, "other", (one) => `${one.label}, parted at step ${steps(one.step)}`),
    list("Nearest directions at the last snapshot", page.neighbours, "feature", (one) => `cosine ${number(one.cosine)}`)];
}

function formation(page) {
  const { formed, levels } = page.formation ?? {};
  if (!formed) return null;
  const facts = { pattern: words(formed.pattern ?? ""), "meaning settles": steps(formed.meaning_step), "direction settles": steps(formed.direction_step), "first level": formed.first_level, "last level": formed.last_level };
  return [h("h2", {}, "How it formed"), table([{ name: "what" }, { name: "value" }], Object.entries(facts).map(([what, value]) => ({ what, value: value ?? "–" }))),
    levels?.length ? h("p", { class: "mono soft" }, levels.map((one) => `${steps(one.step)} ${one.level ?? "–"}`).join(" → ")) : null];
}

function known(about, row) {
  return h("details", {}, h("summary", {}, `${about.columns.length} columns`), table([{ name: "column" }, { name: "value" }, { name: "meaning" }],
    about.columns.map((column) => ({ column: column.name, value: number(row[column.name]), meaning: `${column.meaning.replaceAll("`", "")}${column.unit ? ` (${column.unit})` : ""}` }))));
}
