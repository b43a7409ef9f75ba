// The controls, the spot under the mouse, and the start.

let waiting = false;

// Shows the state, at most once a frame.
function show() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    const ranked = ranking();
    draw();
    showWords(ranked);
    showCard(ranked);
    showControls();
    showMultiples();
    writeLink();
  });
}

// Another part, method, scale or text: what was reckoned does not hold any more.
function change(act) {
  act();
  forget();
  show();
}

function choice(group, names, act) {
  for (const [name, label] of Object.entries(names)) {
    const button = made("button", { type: "button", "data-name": name }, label);
    button.addEventListener("click", () => act(name));
    group.append(button);
  }
}

const element = (id) => document.getElementById(id);

function buildControls() {
  const [views, scales] = ["view", "scale"].map((name) => document.querySelector(`[data-state="${name}"]`));
  choice(views, Object.fromEntries(VIEWS.map((name) => [name, name])), (name) => change(() => (state.view = name)));
  choice(scales, SCALES, (name) => change(() => (state.scale = name)));
  element("method").addEventListener("change", (event) => change(() => (state.method = event.target.value)));
  element("threshold").addEventListener("input", (event) => change(() => (state.threshold = Number(event.target.value))));
  element("from").addEventListener("input", (event) =>
    change(() => {
      state.from = Number(event.target.value);
      state.to = Math.max(state.to, state.from);
    }),
  );
  element("to").addEventListener("input", (event) =>
    change(() => {
      state.to = Number(event.target.value);
      state.from = Math.min(state.from, state.to);
    }),
  );
  element("multiples").addEventListener("toggle", showMultiples);
  document.querySelector(".controls").hidden = false;
}

// Those of the text that is chosen.
function fillControls() {
  const { methods, cells } = anyBranch();
  if (!methods.some((each) => each.name === state.method)) state.method = methods[0].name;
  element("method").replaceChildren(...methods.map((each) => new Option(each.label, each.name)));
  element("methods").hidden = methods.length < 2;
  const parts = hasCells() ? cells : null;
  element("steps").hidden = !parts || parts.steps.length < 2;
  element("layers").hidden = !parts || parts.layers.length < 2;
  const layers = element("layers").querySelector(".choice");
  layers.replaceChildren();
  const labels = parts ? parts.layers.map((each, l) => [`l${l}`, each.label]) : [];
  choice(layers, Object.fromEntries(labels), (name) => change(() => toggleLayer(Number(name.slice(1)), labels.length)));
  element("from").max = element("to").max = wholeSteps();
}

// One layer at least stays.
function toggleLayer(l, count) {
  if (state.off.has(l)) state.off.delete(l);
  else if (state.off.size < count - 1) state.off.add(l);
}

function showControls() {
  for (const button of document.querySelectorAll("[data-state] button")) {
    const name = button.parentElement.dataset.state;
    button.setAttribute("aria-pressed", state[name] === button.dataset.name);
  }
  for (const button of element("layers").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", !state.off.has(Number(button.dataset.name.slice(1))));
    button.disabled = state.method !== "map";
  }
  element("method").value = state.method;
  element("threshold").value = state.threshold;
  element("threshold").nextElementSibling.textContent = `${Math.round(100 * state.threshold)} %`;
  for (const id of ["from", "to"]) {
    element(id).value = state[id];
    element(id).disabled = state.method !== "map";
  }
  if (!element("steps").hidden) {
    const text = stepsText(state.from, state.to);
    element("steps").querySelector("output").textContent = text;
    element("from").setAttribute("aria-valuetext", text);
    element("to").setAttribute("aria-valuetext", text);
  }
  element("clear").disabled = !state.pins.length;
}

function listenToStages() {
  stages.forEach((stage, run) => {
    const point = (event) => {
      const box = stage.getBoundingClientRect();
      const part = (value) => Math.min(Math.max(value, 0), 1);
      const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
      state.spot = { run, x: part(x), y: part(y) };
      state.point = null;
      show();
    };
    stage.addEventListener("pointermove", point);
    stage.addEventListener("pointerdown", point);
    stage.addEventListener("pointerleave", () => {
      if (state.spot?.run === run && !state.spot.kept) state.spot = null;
      show();
    });
    stage.addEventListener("click", () => state.spot && (state.spot.kept = true));
    stage.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (by) {
        event.preventDefault();
        const from = state.spot?.run === run ? state.spot : { x: 0.5, y: 0.5 };
        const moved = (value, step) => Math.min(Math.max(value + step / 24, 0), 1);
        state.spot = { run, x: moved(from.x, by[0]), y: moved(from.y, by[1]), kept: true };
        show();
      }
      if (event.key === "Enter" && state.spot) pin(ranking()[0].entry);
    });
    new ResizeObserver(show).observe(stage);
  });
}

function listenToTabs() {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const choose = (branch) =>
    change(() => {
      state.branch = branch;
      state.pins = [];
      state.point = state.spot = null;
      wholeState();
      showTexts();
    });
  for (const tab of tabs) {
    tab.addEventListener("click", () => choose(tab.dataset.branch));
    tab.addEventListener("keydown", (event) => {
      const way = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const beside = [...tab.parentElement.children];
      const next = way && beside[(beside.indexOf(tab) + way + beside.length) % beside.length];
      if (!next) return;
      next.focus();
      choose(next.dataset.branch);
    });
  }
}

function showTexts() {
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const chosen = tab.dataset.branch === state.branch;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
  }
  for (const text of document.querySelectorAll(".text")) {
    text.hidden = text.dataset.branch !== state.branch;
  }
  fillControls();
}

async function start() {
  await Promise.all([readMaps(), ...pictures.map((picture) => picture.decode())]);
  readLink();
  buildControls();
  setBars();
  showTexts();
  listenToWords();
  listenToStages();
  listenToTabs();
  listenToDownloads();
  window.addEventListener("hashchange", () => change(() => (readLink(), showTexts())));
  document.documentElement.dataset.ready = "yes";
  show();
}

start().catch((error) => {
  element("failure").hidden = false;
  element("failure").textContent = `The maps cannot be shown here (${error.message}). A browser of 2023 or newer can.`;
});
