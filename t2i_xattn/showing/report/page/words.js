// The words of the prompts: pointed at, pinned, reached by keys.

const entryOf = new Map(); // from a word of the page to its entry

for (const text of document.querySelectorAll(".text")) {
  const of = data.pairs[text.dataset.branch];
  for (const word of text.querySelectorAll(".word")) {
    const n = Number(word.dataset.n);
    entryOf.set(word, of.findIndex((pair) => pair[Number(text.dataset.run)] === n));
  }
}

const bars = () => Math.max(...data.runs.flatMap((_, r) => (branchOf(r)?.words ?? []).map((word) => word.share)));

// Each word's share as the height of the bar under it, of two runs on one scale.
function setBars() {
  const most = bars();
  for (const [word] of entryOf) {
    const text = word.closest(".text");
    const branch = data.runs[text.dataset.run].branches.find((each) => each.name === text.dataset.branch);
    const share = branch.words[word.dataset.n].share;
    word.style.setProperty("--share", Math.min(1, share / most).toFixed(3));
  }
}

function pin(entry) {
  const at = state.pins.indexOf(entry);
  if (at < 0) state.pins.push(entry);
  else state.pins.splice(at, 1);
  show();
}

function pointAt(entry) {
  if (state.point === entry) return;
  state.point = entry;
  if (entry !== null) state.spot = null;
  show();
}

function listenToWords() {
  const wordAt = (event) => event.target.closest?.(".word");
  let touched = false;
  document.addEventListener("pointerdown", (event) => (touched = event.pointerType === "touch"), true);
  document.addEventListener("pointerover", (event) => {
    if (event.pointerType !== "touch" && wordAt(event)) pointAt(entryOf.get(wordAt(event)));
  });
  document.addEventListener("pointerout", (event) => {
    if (event.pointerType !== "touch" && wordAt(event)) pointAt(null);
  });
  document.addEventListener("focusin", (event) => {
    if (wordAt(event)?.matches(":focus-visible")) pointAt(entryOf.get(wordAt(event)));
  });
  document.addEventListener("focusout", (event) => wordAt(event) && pointAt(null));
  document.addEventListener("click", (event) => {
    const word = wordAt(event);
    // A first tap lights a word, as a mouse does that points at it; the next pins it.
    if (word && touched && state.point !== entryOf.get(word)) pointAt(entryOf.get(word));
    else if (word) pin(entryOf.get(word));
    else if (touched && !event.target.closest(".panel, .more")) pointAt(null);
  });
  document.addEventListener("keydown", (event) => {
    const word = wordAt(event);
    if (event.key === "Escape") letGo();
    if (!word) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      pin(entryOf.get(word));
    }
    const way = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (way) {
      const all = [...word.closest(".text").querySelectorAll(".word")];
      event.preventDefault();
      all[all.indexOf(word) + way]?.focus();
    }
  });
}

function letGo() {
  state.pins = [];
  state.point = state.spot = null;
  show();
}

// How the words look: pointed at, pinned in a colour, or holding the spot that is pointed at.
function showWords(ranked) {
  const holding = new Map(ranked.slice(0, 3).map((each, place) => [each.entry, 3 - place]));
  for (const [word, entry] of entryOf) {
    const here = word.closest(".text").dataset.branch === state.branch;
    const pinned = here && state.pins.includes(entry);
    word.classList.toggle("lit", here && state.point === entry);
    word.classList.toggle("pinned", pinned);
    word.setAttribute("aria-pressed", pinned);
    word.style.setProperty("--colour", colourOf(entry));
    word.style.setProperty("--hold", here ? (holding.get(entry) ?? 0) : 0);
    word.classList.toggle("holds", here && holding.has(entry));
  }
}
