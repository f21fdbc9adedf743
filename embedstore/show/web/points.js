"use strict";
// Points in typed arrays: read, found by place, and splatted into an image by hand. Of 70,000 that takes a few
// milliseconds, on any machine, where as many calls of the canvas take a hundred.
const Points = (() => {
  const bytes = (text) => {
    const found = atob(text), made = new Uint8Array(found.length);
    for (let i = 0; i < made.length; i++) made[i] = found.charCodeAt(i);
    return made;
  };
  const numbers = (packed) => {
    const made = bytes(packed.data);
    return packed.bytes === 1 ? made : packed.bytes === 2 ? new Uint16Array(made.buffer) : new Uint32Array(made.buffer);
  };
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  // Points by the cell of a grid they lie in, so that the nearest one is looked for in a few cells only.
  const SIDE = 256, SHIFT = 8;
  function grid(xy) {
    const count = xy.length / 2, cells = new Uint32Array(SIDE * SIDE + 1), rows = new Uint32Array(count);
    const cell = (i) => (xy[2 * i + 1] >> SHIFT) * SIDE + (xy[2 * i] >> SHIFT);
    for (let i = 0; i < count; i++) cells[cell(i) + 1]++;
    for (let c = 0; c < SIDE * SIDE; c++) cells[c + 1] += cells[c];
    const next = cells.slice();
    for (let i = 0; i < count; i++) rows[next[cell(i)]++] = i;
    return { cells, rows };
  }
  function nearest(xy, index, x, y, reach, allowed) {
    let best = -1, least = reach * reach;
    const at = (value) => clamp(Math.floor(value / SIDE), 0, SIDE - 1);
    for (let row = at(y - reach); row <= at(y + reach); row++) {
      const start = index.cells[row * SIDE + at(x - reach)], end = index.cells[row * SIDE + at(x + reach) + 1];
      for (let k = start; k < end; k++) {
        const i = index.rows[k], dx = xy[2 * i] - x, dy = xy[2 * i + 1] - y, far = dx * dx + dy * dy;
        if (far <= least && allowed(i)) { least = far; best = i; }
      }
    }
    return best;
  }

  // The places of a disc's pixels, with how much of each it covers (of 256).
  function disc(radius, width) {
    const edge = Math.ceil(radius), offsets = [], covers = [];
    for (let dy = -edge; dy <= edge; dy++) for (let dx = -edge; dx <= edge; dx++) {
      const cover = clamp(radius + 0.5 - Math.hypot(dx, dy), 0, 1);
      if (cover > 0.05) { offsets.push(dy * width + dx); covers.push(Math.round(cover * 225)); }
    }
    return { edge, offsets: Int32Array.from(offsets), covers: Int32Array.from(covers) };
  }

  // Rows in an order by chance (the same one every time): no colour covers the others, and the first so many points are
  // a fair picture of all of them.
  function shuffled(count) {
    const order = Uint32Array.from({ length: count }, (_, i) => i);
    for (let i = count - 1, seed = 1; i > 0; i--) {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      const other = Math.floor((seed / 4294967296) * (i + 1)), kept = order[i];
      order[i] = order[other];
      order[other] = kept;
    }
    return order;
  }

  // Draw the rows that `chosen` has, a disc each. view: pixels (ABGR), width, height, left, top, scale, radius.
  function splat(view, xy, rows, chosen, ink) {
    const { pixels, width, height, left, top, scale } = view, stamp = disc(view.radius, width);
    const { offsets, covers } = stamp, length = offsets.length, edge = stamp.edge + 1;
    for (const i of rows) {
      if (!chosen(i)) continue;
      const x = Math.round(left + xy[2 * i] * scale), y = Math.round(top - xy[2 * i + 1] * scale);
      if (x < edge || y < edge || x >= width - edge || y >= height - edge) continue;
      const colour = ink(i), base = y * width + x, rb = colour & 0xff00ff, g = colour & 0xff00;
      for (let k = 0; k < length; k++) {
        const place = base + offsets[k], cover = covers[k], old = pixels[place];
        const orb = old & 0xff00ff, og = old & 0xff00;
        pixels[place] = 0xff000000
          | ((orb + (((rb - orb) * cover) >> 8)) & 0xff00ff) | ((og + (((g - og) * cover) >> 8)) & 0xff00);
      }
    }
  }

  return { numbers, clamp, grid, nearest, shuffled, splat };
})();
