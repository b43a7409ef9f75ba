// Within a component of the page: `element` is its own, `trigger` tells the program.
// Words are found anew each time, since a new picture takes the place of the old one.
const words = () => [...element.querySelectorAll(".word")];
const pinned = () => element.querySelector('.word[aria-pressed="true"]');

function light(word) {
  const picture = element.querySelector(".picture");
  if (!picture) {
    return;
  }
  const map = word && element.querySelectorAll("[data-mask]")[Number(word.dataset.map)];
  const together = element.querySelector(".one-scale")?.checked;
  const lights = picture.querySelector(".lights");
  lights.style.maskImage = map ? `url("${map.dataset.mask}")` : "";
  lights.style.opacity = map && together ? map.dataset.top : "";
  picture.classList.toggle("lit-by-word", Boolean(map));
  element.querySelector(".said").textContent = word
    ? `“${word.textContent}”: ${word.dataset.said} of the attention, on average`
    : "";
}

function pin(word) {
  for (const each of words()) {
    each.setAttribute("aria-pressed", String(each === word));
  }
  const picture = element.querySelector(".picture");
  if (picture) {
    picture.classList.toggle("ready", Boolean(word));
    picture.querySelector(".box").hidden = true;
  }
  light(word);
}

const wordAt = (event) => event.target.closest?.(".word");
element.addEventListener("pointerover", (event) => wordAt(event) && light(wordAt(event)));
element.addEventListener("pointerout", (event) => wordAt(event) && light(pinned()));
element.addEventListener("focusin", (event) => wordAt(event) && light(wordAt(event)));
element.addEventListener("focusout", (event) => wordAt(event) && light(pinned()));
element.addEventListener("click", (event) => {
  const word = wordAt(event);
  if (word) {
    pin(word === pinned() ? null : word);
  }
});
element.addEventListener("change", () => light(pinned()));
element.addEventListener("keydown", (event) => event.key === "Escape" && pin(null));
watch("value", () => pin(null));

// A box for the pinned word, drawn on the picture; in fractions of it.
let from = null;

function place(event) {
  const frame = element.querySelector(".picture").getBoundingClientRect();
  const within = (value) => Math.min(1, Math.max(0, value));
  return [
    within((event.clientY - frame.top) / frame.height),
    within((event.clientX - frame.left) / frame.width),
  ];
}

function boxTo(end) {
  return [0, 1].map((n) => Math.min(from[n], end[n])).concat([0, 1].map((n) => Math.max(from[n], end[n])));
}

element.addEventListener("pointerdown", (event) => {
  const picture = event.target.closest?.(".picture.draws");
  if (picture && pinned()) {
    from = place(event);
    picture.setPointerCapture(event.pointerId);
  }
});
element.addEventListener("pointermove", (event) => {
  if (from) {
    const [top, left, bottom, right] = boxTo(place(event));
    const box = element.querySelector(".box");
    box.hidden = false;
    box.style.top = 100 * top + "%";
    box.style.left = 100 * left + "%";
    box.style.height = 100 * (bottom - top) + "%";
    box.style.width = 100 * (right - left) + "%";
  }
});
element.addEventListener("pointerup", (event) => {
  if (from) {
    const box = boxTo(place(event));
    from = null;
    // A mere click is no box.
    if (box[2] - box[0] > 0.02 && box[3] - box[1] > 0.02 && pinned()) {
      trigger("select", { word: pinned().textContent, box: box });
    }
  }
});
