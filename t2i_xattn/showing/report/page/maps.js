// Maps: bytes as they came, the part of steps and layers that is asked for, and their scale.

const data = JSON.parse(document.getElementById("data").textContent);

async function inflated(coded) {
  const bytes = Uint8Array.from(atob(coded), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function readMaps() {
  for (const run of data.runs) {
    for (const branch of run.branches) {
      for (const kept of [...branch.methods, branch.cells]) {
        if (kept) kept.bytes = await inflated(kept.data);
      }
    }
  }
}

const branchOf = (r) => data.runs[r].branches.find((each) => each.name === state.branch);
// Of two runs one alone may have a text, such as the negative prompt.
const anyBranch = () => branchOf(0) ?? branchOf(1);
const pairs = () => data.pairs[state.branch];
const wordOf = (r, entry) => branchOf(r)?.words[pairs()[entry][r]];
const methodOf = (r) => branchOf(r)?.methods.find((each) => each.name === state.method);

// Parts can be chosen where all runs have the same ones.
function cellsOf(r) {
  const first = anyBranch().cells;
  const own = branchOf(r)?.cells;
  const parts = (cells) => JSON.stringify([cells?.steps, cells?.layers]);
  return first && own && parts(first) === parts(own) ? own : null;
}

const hasCells = () => data.runs.every((_, r) => !branchOf(r) || cellsOf(r));

function isWhole() {
  const { cells } = anyBranch();
  if (!cells || !hasCells() || state.method !== "map") return true;
  return state.from === 0 && state.to === cells.steps.length - 1 && state.off.size === 0;
}

// The mean of the cells of some windows and layers: each counts as many steps and sites as it has.
function meanOfCells(cells, n, windows, layers) {
  const place = cells.of.indexOf(n);
  if (place < 0) return null;
  const size = cells.width * cells.height;
  const values = new Float32Array(size);
  let total = 0;
  for (const s of windows) {
    for (const l of layers) {
      const [first, end] = cells.steps[s];
      const weight = (end - first) * cells.layers[l].sites;
      const at = ((place * cells.steps.length + s) * cells.layers.length + l) * size;
      for (let i = 0; i < size; i++) values[i] += weight * cells.bytes[at + i];
      total += weight;
    }
  }
  const [low, high] = cells.ranges[place];
  for (let i = 0; i < size; i++) values[i] = low + ((high - low) * values[i]) / (255 * total);
  return withEnds({ width: cells.width, height: cells.height, values });
}

function wholeMap(method, n) {
  const place = method.of.indexOf(n);
  if (place < 0) return null;
  const size = method.width * method.height;
  const [low, high] = method.ranges[place];
  const values = new Float32Array(size);
  for (let i = 0; i < size; i++) {
    values[i] = low + ((high - low) * method.bytes[place * size + i]) / 255;
  }
  return withEnds({ width: method.width, height: method.height, values });
}

function withEnds(map) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of map.values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return { ...map, low, high };
}

const known = new Map();

// Keeps what was reckoned until another part, method or scale is chosen.
function remembered(key, make) {
  if (!known.has(key)) known.set(key, make());
  return known.get(key);
}

const forget = () => known.clear();

// The map of an entry in a run: null where the run has no such word, or no such map of it.
function mapOf(r, entry) {
  return remembered(`map ${r} ${entry}`, () => {
    const n = pairs()[entry]?.[r];
    if (n === undefined || n === null) return null;
    if (isWhole()) {
      const method = methodOf(r);
      return method ? wholeMap(method, n) : null;
    }
    const cells = cellsOf(r);
    const windows = [...cells.steps.keys()].filter((s) => s >= state.from && s <= state.to);
    const layers = [...cells.layers.keys()].filter((l) => !state.off.has(l));
    return meanOfCells(cells, n, windows, layers);
  });
}

// Lowest and highest of the scale of an entry; of two runs one scale holds for both.
function scaleOf(entry) {
  if (state.scale === "one") {
    return remembered("scale", () => {
      const every = pairs().flatMap((_, e) => mapsOf(e));
      return { low: 0, high: Math.max(...every.map((map) => map.high), 1e-12) };
    });
  }
  const maps = mapsOf(entry);
  return { low: Math.min(...maps.map((m) => m.low)), high: Math.max(...maps.map((m) => m.high)) };
}

const mapsOf = (entry) => data.runs.map((_, r) => mapOf(r, entry)).filter(Boolean);

// The map on its scale, 0 to 1; what is the same everywhere is 0 on a scale of its own.
function normalised(r, entry) {
  return remembered(`normalised ${r} ${entry}`, () => {
    const map = mapOf(r, entry);
    if (!map) return null;
    const { low, high } = scaleOf(entry);
    const span = high - low || Infinity;
    return { ...map, values: map.values.map((value) => (value - low) / span) };
  });
}
