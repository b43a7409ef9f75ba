// Draws a run's picture with what is lit on it.

const stages = [...document.querySelectorAll(".stage")];
const pictures = stages.map((stage) => stage.querySelector("img"));
const heatColours = JSON.parse(document.getElementById("heat-colours").textContent);

function canvasOf(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

const rgb = (colour) => [1, 3, 5].map((n) => parseInt(colour.slice(n, n + 2), 16));

// A map as a small picture, which is enlarged when it is drawn; `shade` gives red, green, blue, alpha.
function coloured(map, shade) {
  const canvas = canvasOf(map.width, map.height);
  const context = canvas.getContext("2d");
  const image = context.createImageData(map.width, map.height);
  map.values.forEach((value, i) => image.data.set(shade(Math.min(Math.max(value, 0), 1)), 4 * i));
  context.putImageData(image, 0, 0);
  return canvas;
}

// The picture without its colours and darker, so that what is drawn on it stands out.
function dimmed(r, width, height) {
  const key = `${width} ${height}`;
  if (dimmed.kept[r]?.key !== key) {
    const canvas = canvasOf(width, height);
    const context = canvas.getContext("2d");
    context.drawImage(pictures[r], 0, 0, width, height);
    context.globalCompositeOperation = "saturation";
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = "multiply";
    context.fillStyle = "#777";
    context.fillRect(0, 0, width, height);
    dimmed.kept[r] = { key, canvas };
  }
  return dimmed.kept[r].canvas;
}
dimmed.kept = [];

function stroke(context, path, colour, width) {
  context.lineJoin = "round";
  context.strokeStyle = "rgba(0, 0, 0, 0.55)";
  context.lineWidth = width + 2;
  context.stroke(path);
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.stroke(path);
}

// What lies in the bright parts of the picture: those where one of the words is high.
function drawLight(context, r, entries, width, height) {
  const top = canvasOf(width, height);
  const above = top.getContext("2d");
  for (const entry of entries) {
    const mask = coloured(normalised(r, entry), (v) => [255, 255, 255, 255 * v]);
    above.drawImage(mask, 0, 0, width, height);
  }
  above.globalCompositeOperation = "source-in";
  above.drawImage(pictures[r], 0, 0, width, height);
  context.drawImage(dimmed(r, width, height), 0, 0);
  context.drawImage(top, 0, 0);
}

function drawHeat(context, r, entries, width, height) {
  context.drawImage(dimmed(r, width, height), 0, 0);
  for (const entry of entries) {
    const own = rgb(colourOf(entry));
    const alone = entries.length === 1;
    const shade = (v) =>
      alone ? [...heatColours[Math.round(255 * v)], 190] : [...own, 215 * v];
    context.drawImage(coloured(normalised(r, entry), shade), 0, 0, width, height);
  }
}

function drawMask(context, r, entries, width, height) {
  context.drawImage(dimmed(r, width, height), 0, 0);
  for (const entry of entries) {
    const path = new Path2D(outline(normalised(r, entry), state.threshold, width, height));
    context.save();
    context.clip(path, "evenodd");
    context.drawImage(pictures[r], 0, 0, width, height);
    context.globalAlpha = entries.length > 1 ? 0.45 : 0.15;
    context.fillStyle = colourOf(entry);
    context.fillRect(0, 0, width, height);
    context.restore();
  }
}

function drawOutlines(context, r, entries, width, height) {
  const line = Math.max(1.5, width / 320);
  for (const entry of entries) {
    const map = normalised(r, entry);
    const levels = state.view === "outline" ? [(1 + state.threshold) / 2, state.threshold] : [state.threshold];
    levels.forEach((level, n) => {
      const path = new Path2D(outline(map, level, width, height));
      stroke(context, path, colourOf(entry), n === levels.length - 1 ? line : line / 2);
    });
  }
}

function drawSpot(context, r, width, height) {
  if (state.spot?.run !== r || state.point !== null) return;
  const circle = new Path2D();
  circle.arc(state.spot.x * width, state.spot.y * height, Math.max(5, width / 80), 0, 7);
  stroke(context, circle, "#fff", 2);
}

// Draws what is lit of a run into a context of some size; nothing lit: the picture as it is.
function paint(context, r, width, height) {
  const entries = lit().filter((entry) => mapOf(r, entry));
  context.clearRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(pictures[r], 0, 0, width, height);
  if (entries.length) {
    if (state.view === "light") drawLight(context, r, entries, width, height);
    if (state.view === "heat") drawHeat(context, r, entries, width, height);
    if (state.view === "mask") drawMask(context, r, entries, width, height);
    if (state.view !== "heat" || entries.length > 1) {
      drawOutlines(context, r, entries, width, height);
    }
  }
  drawSpot(context, r, width, height);
}

function draw() {
  stages.forEach((stage, r) => {
    const canvas = stage.querySelector("canvas");
    const dots = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.min(1400, Math.round(stage.clientWidth * dots));
    const height = Math.round((width * stage.clientHeight) / stage.clientWidth);
    if (canvas.width !== width || canvas.height !== height) {
      [canvas.width, canvas.height] = [width, height];
    }
    paint(canvas.getContext("2d"), r, width, height);
  });
}
