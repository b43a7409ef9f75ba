// What can be taken along: PNG, SVG, JSON, and the link.

function save(blob, name) {
  const link = made("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

const sizeOf = (r) => data.runs[r].picture;

// Pictures beside each other, each at twice its size where that is small.
function savePng() {
  const sizes = data.runs.map((_, r) => {
    const { width, height } = sizeOf(r);
    const times = Math.max(1, Math.min(8, Math.floor(1024 / Math.max(width, height))));
    return { width: width * times, height: height * times };
  });
  const gap = 16;
  const across = sizes.reduce((sum, size) => sum + size.width + gap, -gap);
  const whole = canvasOf(across, Math.max(...sizes.map((size) => size.height)));
  let left = 0;
  sizes.forEach(({ width, height }, r) => {
    const own = canvasOf(width, height);
    paint(own.getContext("2d"), r, width, height);
    whole.getContext("2d").drawImage(own, left, 0);
    left += width + gap;
  });
  whole.toBlob((blob) => save(blob, "words.png"), "image/png");
}

// The pictures with the outlines of what is lit, as shapes that can be changed.
function svgText() {
  const space = "http://www.w3.org/2000/svg";
  const drawn = (tag, attributes) => {
    const element = document.createElementNS(space, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const line = 28;
  const entries = lit().filter((entry) => mapsOf(entry).length);
  const across = data.runs.length * 640 + 16 * (data.runs.length - 1);
  const down = Math.max(...data.runs.map((_, r) => (640 * sizeOf(r).height) / sizeOf(r).width));
  const svg = drawn("svg", { viewBox: `0 0 ${across} ${down + line * (entries.length + 1)}`, width: across });
  const title = drawn("title", {});
  title.textContent = data.runs.map((run) => run.branches[0].text).join(" | ");
  svg.append(title);
  data.runs.forEach((_, r) => {
    const high = (640 * sizeOf(r).height) / sizeOf(r).width;
    const group = drawn("g", { transform: `translate(${656 * r} 0)` });
    group.append(drawn("image", { href: pictures[r].src, width: 640, height: high, preserveAspectRatio: "none" }));
    for (const entry of entries.filter((each) => mapOf(r, each))) {
      const d = outline(normalised(r, entry), state.threshold, 640, high);
      const colour = colourOf(entry);
      group.append(drawn("path", { d, fill: colour, "fill-opacity": 0.3, "fill-rule": "evenodd", stroke: colour, "stroke-width": 3 }));
    }
    svg.append(group);
  });
  entries.forEach((entry, n) => {
    const label = drawn("text", { x: 22, y: down + line * (n + 1), "font-family": "serif", "font-size": 20 });
    label.textContent = nameOf(entry);
    svg.append(drawn("rect", { x: 0, y: down + line * (n + 1) - 14, width: 14, height: 14, fill: colourOf(entry) }), label);
  });
  return new XMLSerializer().serializeToString(svg);
}

function listenToDownloads() {
  const listen = (id, act) => document.getElementById(id).addEventListener("click", act);
  listen("png", savePng);
  listen("svg", () => save(new Blob([svgText()], { type: "image/svg+xml" }), "words.svg"));
  listen("json", () => save(new Blob([document.getElementById("data").textContent], { type: "application/json" }), "words.json"));
  listen("link", async (event) => {
    const button = event.target;
    try {
      await navigator.clipboard.writeText(location.href);
      button.textContent = "Copied";
    } catch {
      button.textContent = "It is in the address bar";
    }
    setTimeout(() => (button.textContent = "Copy link"), 2500);
  });
  listen("clear", letGo);
}
