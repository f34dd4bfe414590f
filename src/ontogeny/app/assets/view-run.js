// The run itself: how far it is, what made it, its files.
import { add, bytes, fill, h, number, table, words } from "./dom.js";

const STAGES = ["pack", "pretrain", "schedule", "train", "measure", "analyse", "attribute", "truth", "report"];

function time(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const whole = Math.round(seconds), [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}h${String(minutes).padStart(2, "0")}m` : minutes ? `${minutes}m${String(whole % 60).padStart(2, "0")}s` : whole ? `${whole}s` : "< 1s";
}

export async function run(root, { run: id, about, source, isCurrent }) {
  const [settings, first] = await Promise.all([source.settings(id), source.progress(id)]);
  const live = h("div"), download = (name) => ["csv", "parquet"].map((kind) => [h("a", { href: source.file(id, `tables/${name}?format=${kind}`) }, kind), " "]);
  const files = about.tables.filter((one) => one.bytes);
  add(root, [
    h("h1", {}, "Run"), live,
    h("h2", {}, "Tables"), table([{ name: "table" }, { name: "rows" }, { name: "size" }, ...(source.live ? [{ name: "download", show: (row) => h("span", {}, download(row.table)) }] : [])], files.map((one) => ({ ...one, size: bytes(one.bytes) }))),
    h("h2", {}, "Snapshots"), h("details", {}, h("summary", {}, `${settings.snapshots.length} of ${about.suite}`), table(["step", "tokens_seen", "repo", "revision", "commit"].map((name) => ({ name })), settings.snapshots)),
    h("h2", {}, "Settings"), h("details", { open: true }, h("summary", {}, "study.yaml, resolved"), h("pre", {}, settings.study)),
    h("h2", {}, "Provenance"), h("pre", {}, JSON.stringify({ provenance: settings.provenance, numerics: settings.numerics, corpus: settings.corpus }, null, 2)),
  ]);
  const render = (progress) => {
    const done = STAGES.filter((name) => progress.stages[name]), next = progress.events.at(-1);
    const going = next && next.event !== "finished" ? next : null;
    const figures = going ? Object.entries(going).filter(([name]) => !["time", "stage", "event"].includes(name)) : [];
    fill(live, h("div", { class: "facts" }, done.map((name) => h("div", { class: "fact" }, h("b", {}, time(progress.stages[name].seconds)), h("span", {}, name)))),
      going ? h("p", { role: "status" }, h("b", {}, `${words(going.stage)}: ${going.event}`), " ", figures.map(([name, value]) => h("span", { class: "badge" }, `${name} ${typeof value === "number" ? number(value) : value}`))) : h("p", {}, "Nothing is running."),
      h("details", {}, h("summary", {}, "latest events"), h("pre", {}, progress.events.slice(-30).map((one) => JSON.stringify(one)).join("\n"))));
    return !progress.stages.report || going !== null;
  };
  const isGoing = render(first);
  if (!source.live || !isGoing) return undefined;
  const timer = setInterval(async () => { if (isCurrent()) { try { render(await source.progress(id)); } catch { /* the server may be gone for a moment */ } } }, 2000);
  return () => clearInterval(timer);
}
