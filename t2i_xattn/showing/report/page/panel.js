// What is said beside the picture: of a word, of the pinned ones, or of a spot.

function made(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const percent = (value) => `${(100 * value).toFixed(Math.abs(value) < 0.0995 ? 2 : 1)} %`;

function nameOf(entry) {
  const texts = data.runs.map((_, r) => wordOf(r, entry)?.text).filter((text) => text !== undefined);
  return [...new Set(texts)].join(" → ");
}

// The words of a spot, first those that hold it most: with a scale of their own by how many times
// its mean each has there, on one scale by its share there.
function ranking() {
  if (!state.spot) return [];
  const { run, x, y } = state.spot;
  const found = [];
  pairs().forEach((_, entry) => {
    const word = wordOf(run, entry);
    const map = word && !["concept", "phrase"].includes(word.kind) ? mapOf(run, entry) : null;
    if (!map) return;
    const column = Math.min(map.width - 1, Math.floor(x * map.width));
    const row = Math.min(map.height - 1, Math.floor(y * map.height));
    const here = map.values[row * map.width + column];
    const mean = map.values.reduce((sum, value) => sum + value, 0) / map.values.length;
    found.push({ entry, here, times: mean > 0 ? here / mean : 0 });
  });
  const by = state.scale === "one" ? "here" : "times";
  return found.sort((a, b) => b[by] - a[by]);
}

function legend(entry) {
  const { low, high } = scaleOf(entry);
  const unit = (methodOf(0) ?? methodOf(1))?.unit;
  const heat = [0, 64, 128, 192, 255].map((n) => `rgb(${heatColours[n].join()})`).join();
  const ramp = state.view === "heat" ? heat : `var(--dim), ${colourOf(entry)}`;
  const bar = made("div", { class: "legend" });
  bar.style.background = `linear-gradient(to right, ${ramp})`;
  if (unit === "none") return [bar];
  const ends = made("p", { class: "ends" }, made("span", {}, percent(low)), made("span", {}, percent(high)));
  return [bar, ends];
}

function sharesOf(entry) {
  const words = data.runs.map((_, r) => wordOf(r, entry));
  return words.map((each) => (each ? percent(each.share) : "none")).join(" and ");
}

function cardOf(entry) {
  const words = data.runs.map((_, r) => wordOf(r, entry));
  const word = words.find(Boolean);
  const heading = made("h2", { dir: "auto" }, nameOf(entry));
  const parts = [heading, made("p", {}, `${sharesOf(entry)} of the attention`)];
  if (mapOf(0, entry) ?? mapOf(1, entry)) parts.push(...legend(entry));
  else parts.push(made("p", { class: "hint" }, whyNoMap(word)));
  const flat = "Nearly flat: no place has 1.5 times as much as another, so it points nowhere.";
  if (state.method === "map" && word.flat) parts.push(made("p", { class: "mark" }, flat));
  const untaught = "Never taught to this model: it paints something else for it, and the map lies where that is.";
  if (words.some((each) => each?.unknown)) parts.push(made("p", { class: "never" }, untaught));
  if (word.note) parts.push(made("p", { class: "hint" }, word.note));
  if (word.explained) {
    const { grade, sentence } = word.explained;
    parts.push(made("p", { class: "grade", "data-grade": grade }, GRADES[grade]));
    parts.push(made("p", { dir: "auto" }, sentence));
  }
  return parts;
}

function whyNoMap(word) {
  if (word.explained) return "It has no region, since taking it away changes nothing.";
  return "It was not asked about; choose another map.";
}

const GRADES = {
  trust: "Trust: where it acts is well supported",
  doubt: "Doubt: it acts, but where is not certain",
  nothing: "Nothing: taking it away changes nothing",
};

function cardOfSpot(ranked) {
  const rows = ranked.slice(0, 5).map(({ entry, here, times }) => {
    const word = made("button", { type: "button", dir: "auto" }, nameOf(entry));
    word.addEventListener("click", () => pin(entry));
    const numbers = methodOf(state.spot.run)?.unit === "none" ? "" : `${percent(here)} here, `;
    return made("li", {}, word, made("span", {}, `${numbers}${times.toFixed(1)} × its mean`));
  });
  return [made("h2", {}, "This spot"), made("ol", { class: "rank" }, ...rows)];
}

function cardOfPins() {
  const rows = state.pins.map((entry) => {
    const dot = made("i", { class: "dot" });
    dot.style.background = colourOf(entry);
    return made("li", {}, dot, made("b", { dir: "auto" }, nameOf(entry)), made("span", {}, sharesOf(entry)));
  });
  return [made("h2", {}, "Pinned"), made("ul", { class: "rank" }, ...rows)];
}

function showCard(ranked) {
  const card = document.getElementById("card");
  let parts = [made("p", { class: "hint" }, "Click a word to pin it; pin several to compare them. The bar under a word is its share of the attention.")];
  if (state.point !== null) parts = cardOf(state.point);
  else if (ranked.length) parts = cardOfSpot(ranked);
  else if (state.pins.length === 1) parts = cardOf(state.pins[0]);
  else if (state.pins.length) parts = cardOfPins();
  card.replaceChildren(...parts);
}

// A small map for each window of steps and group of layers, of the word that is lit.
function showMultiples() {
  const details = document.getElementById("multiples");
  details.hidden = !cellsOf(0);
  if (details.hidden || !details.open) return;
  const { cells, words } = branchOf(0);
  const named = pairs().findIndex((pair) => words[pair[0]] && !words[pair[0]].quiet);
  const entry = [...lit(), named].find((each) => cells.of.includes(pairs()[each]?.[0]));
  if (entry === undefined) return;
  const key = `multiples ${entry} ${state.branch}`;
  const grid = details.querySelector(".grid");
  if (grid.dataset.key === key) return;
  grid.dataset.key = key;
  grid.replaceChildren(made("p", { dir: "auto" }, `“${nameOf(entry)}”, early steps to the left, first layers on top; all on one scale.`));
  const n = pairs()[entry][0];
  const [low, high] = cells.ranges[cells.of.indexOf(n)];
  const table = made("div", { class: "cells", style: `--count: ${cells.steps.length}` });
  cells.layers.forEach((layer, l) => {
    table.append(made("span", { class: "side" }, layer.label));
    cells.steps.forEach((_, s) => {
      const map = meanOfCells(cells, n, [s], [l]);
      const values = map.values.map((value) => (value - low) / (high - low || 1));
      const canvas = coloured({ ...map, values }, (v) => [...heatColours[Math.round(255 * v)], 255]);
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `${layer.label}, ${stepsText(s, s)}: ${percent(map.low)} to ${percent(map.high)}`);
      table.append(canvas);
    });
  });
  table.append(made("span"), ...cells.steps.map((_, s) => made("span", { class: "foot" }, stepsText(s, s).replace("steps ", ""))));
  grid.append(made("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Steps and layers" }, table));
}

// Steps are counted from 1 for people.
function stepsText(from, to) {
  const { steps } = anyBranch().cells;
  const [first, end] = [steps[from][0] + 1, steps[to][1]];
  return first === end ? `step ${first}` : `steps ${first}–${end}`;
}
