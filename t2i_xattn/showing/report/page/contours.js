// The outlines of where a map is at or above a level: marching squares.

// Gives the `d` of an SVG path of closed outlines, in pixels of a picture of across × down.
function outline(map, level, across, down) {
  // Places are areas, whose values stand in their middle. Around them lies their own edge, and
  // around that nothing, so that every outline closes, at the border of the picture.
  const columns = map.width + 4;
  const rows = map.height + 4;
  const inner = (n, count) => Math.min(Math.max(n - 2, 0), count - 1);
  const place = (n, count) => Math.min(Math.max((n - 1.5) / count, 0), 1);
  const value = (x, y) => {
    const outside = x === 0 || y === 0 || x === columns - 1 || y === rows - 1;
    if (outside) return -1e9;
    return map.values[inner(y, map.height) * map.width + inner(x, map.width)];
  };
  // Of the edge from (x, y) to the right (side 0) or down (side 1): where the level crosses it.
  const point = (edge) => {
    const side = edge % 2;
    const x = (edge >> 1) % columns;
    const y = ((edge >> 1) - x) / columns;
    const [a, b] = [value(x, y), value(x + 1 - side, y + side)];
    const part = a < -1e8 ? 1 : b < -1e8 ? 0 : (level - a) / (b - a);
    const between = (n, count) => place(n, count) + part * (place(n + 1, count) - place(n, count));
    return [
      (side ? place(x, map.width) : between(x, map.width)) * across,
      (side ? between(y, map.height) : place(y, map.height)) * down,
    ];
  };
  const next = new Map(); // from an edge to those that its outline goes on to
  const join = (a, b) => {
    next.set(a, [...(next.get(a) ?? []), b]);
    next.set(b, [...(next.get(b) ?? []), a]);
  };
  for (let y = 0; y < rows - 1; y++) {
    for (let x = 0; x < columns - 1; x++) {
      const corners = [value(x, y), value(x + 1, y), value(x + 1, y + 1), value(x, y + 1)];
      const above = corners.map((each) => each >= level);
      const at = y * columns + x;
      // Top, right, bottom, left.
      const edges = [at * 2, (at + 1) * 2 + 1, (at + columns) * 2, at * 2 + 1];
      const crossed = edges.filter((_, n) => above[n] !== above[(n + 1) % 4]);
      if (crossed.length === 2) join(crossed[0], crossed[1]);
      if (crossed.length === 4) {
        // A saddle: its middle says which corners belong together.
        const middle = corners.reduce((sum, each) => sum + each, 0) / 4 >= level;
        const [top, right, bottom, left] = edges;
        if (middle === above[0]) {
          join(top, right);
          join(bottom, left);
        } else {
          join(top, left);
          join(bottom, right);
        }
      }
    }
  }
  let path = "";
  while (next.size) {
    const [first] = next.keys();
    let edge = first;
    let came = -1;
    const points = [];
    do {
      const [x, y] = point(edge);
      points.push(`${x.toFixed(1)} ${y.toFixed(1)}`);
      const [one, other] = next.get(edge);
      next.delete(edge);
      const following = one === came ? other : one;
      came = edge;
      edge = following;
    } while (next.has(edge));
    path += `M${points.join("L")}Z`;
  }
  return path;
}
