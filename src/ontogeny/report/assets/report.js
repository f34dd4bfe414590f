// Draws the study's figures at once and those of cards when they come near the screen or are printed; switches step axes between log(1 + step) and linear; tabs.
const specs = JSON.parse(document.getElementById("specs").textContent);
let axis = "log";

function withAxis(spec) {
  const copy = structuredClone(spec);
  if (axis === "linear") {
    const visit = (node) => {
      if (node === null || typeof node !== "object") return;
      if (node.type === "symlog") { node.type = "linear"; delete node.constant; }
      Object.values(node).forEach(visit);
    };
    visit([copy.encoding, copy.layer, copy.vconcat]);
  }
  return copy;
}

function draw(figure) {
  const options = { actions: { export: true, source: false, compiled: false, editor: false }, renderer: "svg" };
  figure.dataset.drawn = axis;
  vegaEmbed(figure, withAxis(specs[figure.dataset.spec]), options).catch((error) => { figure.textContent = String(error); });
}

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting && entry.target.dataset.drawn !== axis) draw(entry.target);
  }
}, { rootMargin: "600px" });
const figures = [...document.querySelectorAll("figure[data-spec]")];
for (const figure of figures) {
  if (figure.closest(".card")) seen.observe(figure);
  else draw(figure);
}
window.addEventListener("beforeprint", () => figures.filter((figure) => figure.dataset.drawn !== axis).forEach(draw));

for (const input of document.querySelectorAll("input[name=axis]")) {
  input.addEventListener("change", () => {
    axis = input.value;
    figures.filter((figure) => figure.dataset.drawn).forEach(draw);
  });
}

for (const tabs of document.querySelectorAll(".tabs")) {
  const buttons = [...tabs.querySelectorAll("[role=tab]")];
  const panels = [...tabs.querySelectorAll("[role=tabpanel]")];
  const choose = (chosen) => {
    buttons.forEach((button, i) => button.setAttribute("aria-selected", String(i === chosen)));
    panels.forEach((panel, i) => { panel.hidden = i !== chosen; });
  };
  buttons.forEach((button, i) => {
    button.addEventListener("click", () => choose(i));
    button.addEventListener("keydown", (event) => {
      const next = { ArrowRight: i + 1, ArrowLeft: i - 1 }[event.key];
      if (next === undefined || !buttons[next]) return;
      choose(next);
      buttons[next].focus();
    });
  });
}
