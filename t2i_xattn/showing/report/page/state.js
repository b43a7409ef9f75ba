// What is chosen, and the link that holds it.

const VIEWS = ["light", "heat", "outline", "mask"];
const SCALES = { own: "each its own", one: "one for all" };
const COLOURS = ["#f2a900", "#56b4e9", "#e377c2", "#2fbf8f", "#f0e442", "#e8663d", "#8f8ae6", "#b7d968"];

const state = {
  branch: data.runs[0].branches[0].name,
  pins: [], // entries, in the order of their colours
  point: null, // the entry that is pointed at
  spot: null, // { run, x, y }, in fractions of the picture
  view: "light",
  scale: "own",
  method: data.runs[0].branches[0].methods[0].name,
  threshold: 0.5,
  from: 0,
  to: 0,
  off: new Set(), // layers that are left out
};

const wholeSteps = () => Math.max(0, (anyBranch().cells?.steps.length ?? 1) - 1);

// What is lit: the word that is pointed at, or else those that are pinned.
const lit = () => (state.point === null ? state.pins : [state.point]);
const colourOf = (entry) => COLOURS[Math.max(0, state.pins.indexOf(entry)) % COLOURS.length];

function wholeState() {
  state.from = 0;
  state.to = wholeSteps();
  state.off.clear();
}

function readLink() {
  const given = new URLSearchParams(location.hash.slice(1));
  const number = (text, low, high) => {
    const value = Number(text);
    return text !== null && value >= low && value <= high ? value : null;
  };
  const numbers = (text) => (text ?? "").split(".").filter(Boolean).map(Number);
  const branch = given.get("text");
  if (Object.hasOwn(data.pairs, branch ?? "")) state.branch = branch;
  wholeState();
  const there = (n) => Number.isInteger(n) && n >= 0 && n < pairs().length;
  state.pins = [...new Set(numbers(given.get("pins")).filter(there))];
  if (VIEWS.includes(given.get("view"))) state.view = given.get("view");
  if (Object.hasOwn(SCALES, given.get("scale") ?? "")) state.scale = given.get("scale");
  const methods = anyBranch().methods.map((each) => each.name);
  if (methods.includes(given.get("map"))) state.method = given.get("map");
  state.threshold = number(given.get("threshold"), 0.05, 0.95) ?? state.threshold;
  const [from, to] = numbers(given.get("steps"));
  if (Number.isInteger(from) && from <= to && to <= wholeSteps()) [state.from, state.to] = [from, to];
  const layers = anyBranch().cells?.layers.length ?? 0;
  const off = numbers(given.get("without")).filter((l) => Number.isInteger(l) && l < layers);
  if (off.length < layers) state.off = new Set(off);
}

function writeLink() {
  const link = new URLSearchParams();
  if (state.branch !== data.runs[0].branches[0].name) link.set("text", state.branch);
  if (state.pins.length) link.set("pins", state.pins.join("."));
  if (state.view !== "light") link.set("view", state.view);
  if (state.scale !== "own") link.set("scale", state.scale);
  if (state.method !== anyBranch().methods[0].name) link.set("map", state.method);
  if (state.threshold !== 0.5) link.set("threshold", state.threshold);
  if (state.from > 0 || state.to < wholeSteps()) link.set("steps", `${state.from}.${state.to}`);
  if (state.off.size) link.set("without", [...state.off].join("."));
  try {
    history.replaceState(null, "", `#${link}`);
  } catch {
    // In the frame of a notebook there is no address.
  }
}
