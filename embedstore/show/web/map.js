"use strict";
// Maps to pan, zoom and ask. Ids and metadata are other people's, and enter the page as text alone.
(() => {
  const { numbers, clamp } = Points;
  const element = (tag, options = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), options);
    made.append(...children);
    return made;
  };
  const shown = (value) => Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(3)
    : String(Math.round(value * 1000) / 1000);

  function start(root) {
    const data = JSON.parse(document.getElementById(root.dataset.source).textContent);
    const find = (name) => root.querySelector("." + name);
    const canvas = find("plot"), stage = find("stage"), tip = find("tip"), pin = find("pin"), where = find("where");
    const context = canvas.getContext("2d");
    const xy = numbers(data.xy), count = xy.length / 2, index = Points.grid(xy);
    const fields = data.fields.map((field) => ({ ...field, codes: numbers(field.codes) }));
    const colourings = data.colourings.map((one) => ({ ...one, codes: numbers(one.codes) }));
    const whole = root.classList.contains("whole");
    const thumb = new Int32Array(count).fill(-1), state = new Uint8Array(count); // state: 0 hidden, 1 faint, 2 full
    const sheets = [], tiles = new Map();
    if (data.thumbs) {
      numbers(data.thumbs.rows).forEach((row, place) => { thumb[row] = place; });
      data.thumbs.sizes = numbers(data.thumbs.sizes);
      for (const source of data.thumbs.sheets) {
        const sheet = new Image();
        sheet.onload = () => draw();
        sheet.src = source;
        sheets.push(sheet);
      }
    }
    const order = Points.shuffled(count);
    let colouring = colourings[0], marked = new Set(), hidden = new Set(), matches = null, found = null;
    let dpr = 1, scale = 1, home = 1, cx = 0, cy = 0, image = null, pixels = null, moving = 0, cost = 0, queued = 0;
    let hovered = -1, pinned = -1, spot = null, cross = false;
    const exactly = (value) => value.toFixed(clamp(Math.ceil(-Math.log10(data.step)), 0, 9));
    const X = (q) => data.origin[0] + q * data.step, Y = (q) => data.origin[1] + q * data.step;

    // ---- drawing
    const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
    const packed = (red, green, blue) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    const parsed = (text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16)); // "#rrggbb"
    let ground, faint, palette;
    function colours() {
      ground = packed(...parsed(css("--plot")));
      faint = packed(...parsed(css("--faint")));
      palette = Uint32Array.from(colouring.colours, (one) => packed(...parsed(one)));
    }
    function resize() {
      const box = stage.getBoundingClientRect(), before = canvas.width;
      dpr = Math.min(window.devicePixelRatio || 1, 2);
      canvas.width = Math.max(1, Math.round(box.width * dpr));
      canvas.height = Math.max(1, Math.round(box.height * dpr));
      image = context.createImageData(canvas.width, canvas.height);
      pixels = new Uint32Array(image.data.buffer);
      const last = home, [wide, high] = data.extent.map((one) => Math.max(one, 1));
      home = 0.9 * Math.min(canvas.width / wide, canvas.height / high);
      if (before && scale !== 1) scale *= home / last; else reset();
      draw();
    }
    function reset() {
      scale = home;
      [cx, cy] = data.extent.map((one) => one / 2);
    }
    function radius() {
      const usual = 0.3 * Math.sqrt((canvas.width * canvas.height) / Math.max(count, 1)) / dpr;
      return clamp(clamp(usual, 1.1, 4) * Math.pow(scale / home, 0.35), 1.1, 7) * dpr;
    }
    function splat(rows, want, ink, by = 1) {
      const [width, height] = [canvas.width, canvas.height];
      const view = { pixels, width, height, scale, left: width / 2 - cx * scale, top: height / 2 + cy * scale };
      Points.splat({ ...view, radius: radius() * by }, xy, rows, (i) => state[i] === want, ink);
    }
    function paint() {
      queued = 0;
      const began = performance.now();
      // While it moves, as many points as a frame has time for.
      const drawn = moving && cost > 14 ? Math.max(2000, Math.round((count * 14) / cost)) : count;
      pixels.fill(ground);
      const rows = order.subarray(0, drawn), codes = colouring.codes;
      splat(rows, 1, () => faint);
      splat(found ? found : rows, 2, (i) => palette[codes[i]], found ? 2.2 : 1);
      context.putImageData(image, 0, 0);
      cost = ((performance.now() - began) * count) / Math.max(drawn, 1);
      context.save();
      pictures();
      names();
      for (const [i, wide] of [[hovered, 2], [pinned, 3]]) if (i >= 0) ring(xy[2 * i], xy[2 * i + 1], wide);
      if (spot) plus(...onScreen(spot[0], spot[1]), 9 * dpr);
      if (cross) plus(canvas.width / 2, canvas.height / 2, 6 * dpr);
      context.restore();
    }
    function draw() { queued = queued || requestAnimationFrame(paint); }
    function move() { // a part now, and all of it when it rests
      clearTimeout(moving);
      moving = setTimeout(() => { moving = 0; draw(); }, 140);
      draw();
    }
    const onScreen = (x, y) => [canvas.width / 2 + (x - cx) * scale, canvas.height / 2 - (y - cy) * scale];
    function ring(x, y, wide) {
      const [sx, sy] = onScreen(x, y);
      for (const [style, line] of [[css("--plot"), wide + 3], [css("--ink"), wide]]) {
        context.beginPath();
        context.arc(sx, sy, radius() + 3 * dpr, 0, 7);
        context.strokeStyle = style;
        context.lineWidth = line * dpr * 0.7;
        context.stroke();
      }
    }
    function plus(x, y, size) {
      context.strokeStyle = css("--ink");
      context.lineWidth = 1.5 * dpr;
      context.stroke(new Path2D(`M${x - size} ${y}h${2 * size}M${x} ${y - size}v${2 * size}`));
    }
    function crop(place) {
      const { cell, columns, each, sizes } = data.thumbs, inside = place % each;
      const sheet = sheets[Math.floor(place / each)];
      const at = [(inside % columns) * cell, Math.floor(inside / columns) * cell];
      return { sheet, x: at[0], y: at[1], width: sizes[2 * place], height: sizes[2 * place + 1] };
    }
    function pictures() {
      const mode = find("mode")?.value;
      tiles.clear();
      if (!data.thumbs || mode === "never" || (mode === "zoomed" && scale < 3 * home)) return;
      // One to a place, which is the map's and not the window's: so that none changes while the map is moved.
      const size = 34 * dpr, w = canvas.width, h = canvas.height;
      context.imageSmoothingEnabled = size < data.thumbs.cell;
      for (const i of order) {
        if (thumb[i] < 0 || state[i] !== 2) continue;
        const [x, y] = onScreen(xy[2 * i], xy[2 * i + 1]);
        if (x < -size || y < -size || x > w + size || y > h + size) continue;
        const column = Math.floor((xy[2 * i] * scale) / size), row = Math.floor((xy[2 * i + 1] * scale) / size);
        if (tiles.has(row * 1e6 + column)) continue;
        tiles.set(row * 1e6 + column, i);
        const part = crop(thumb[i]);
        if (!part.sheet.complete || !part.sheet.naturalWidth) continue;
        const [px, py] = onScreen(((column + 0.5) * size) / scale, ((row + 0.5) * size) / scale);
        const most = size - 5 * dpr, by = most / Math.max(part.width, part.height);
        const wide = part.width * by, high = part.height * by;
        context.fillStyle = colouring.colours[colouring.codes[i]];
        context.fillRect(px - wide / 2 - 1.5 * dpr, py - high / 2 - 1.5 * dpr, wide + 3 * dpr, high + 3 * dpr);
        context.drawImage(
          part.sheet, part.x, part.y, part.width, part.height, px - wide / 2, py - high / 2, wide, high);
      }
    }
    function names() {
      const size = 13 * dpr, taken = [];
      context.font = `600 ${size}px system-ui, sans-serif`;
      context.textAlign = "center";
      context.textBaseline = "middle";
      context.lineJoin = "round";
      for (const [text, qx, qy, code] of colouring.labels) {
        if (hidden.has(code) || (marked.size && !marked.has(code))) continue;
        const short = text.length > 26 ? text.slice(0, 25) + "…" : text;
        const [x, middle] = onScreen(qx, qy), wide = context.measureText(short).width / 2 + 6 * dpr;
        for (const shift of [0, -1.5, 1.5, -3, 3]) {
          const y = middle + shift * size, box = [x - wide, y - 0.8 * size, x + wide, y + 0.8 * size];
          if (taken.some((b) => b[0] < box[2] && box[0] < b[2] && b[1] < box[3] && box[1] < b[3])) continue;
          taken.push(box);
          context.strokeStyle = css("--plot");
          context.lineWidth = 4 * dpr;
          context.strokeText(short, x, y);
          context.fillStyle = css("--ink");
          context.fillText(short, x, y);
          break;
        }
      }
    }

    // ---- what an item is
    function card(i, full) {
      const made = element("div", { className: "card" });
      if (data.thumbs && thumb[i] >= 0) {
        const part = crop(thumb[i]), small = element("canvas", { width: part.width, height: part.height });
        const by = Math.max(1, Math.floor((full ? 160 : 112) / Math.max(part.width, part.height)));
        small.style.width = part.width * by + "px";
        small.getContext("2d").drawImage(
          part.sheet, part.x, part.y, part.width, part.height, 0, 0, part.width, part.height);
        made.append(small);
      }
      const list = element("dl");
      const say = (key, value) => list.append(element("dt", {}, key), element("dd", {}, value));
      for (const field of fields) {
        const code = field.codes[i];
        if (code && (full || list.children.length < 12)) say(field.key, field.values[code - 1]);
      }
      if (full) say("x, y", [X(xy[2 * i]), Y(xy[2 * i + 1])].map(exactly).join(" "));
      made.append(element("div", { className: "said" }, element("b", { textContent: data.ids[i] }), list));
      if (full && data.thumbs && thumb[i] < 0) say("picture", "not among those in this page");
      return made;
    }
    function hover(i, x, y) {
      if (i !== hovered) {
        hovered = i;
        tip.hidden = i < 0;
        if (i >= 0) tip.replaceChildren(card(i, false));
        draw();
      }
      if (i < 0) return;
      const box = stage.getBoundingClientRect(), own = tip.getBoundingClientRect();
      tip.style.left = clamp(x + 16 + own.width > box.width ? x - 16 - own.width : x + 16, 4, box.width) + "px";
      tip.style.top = clamp(y + 16, 4, Math.max(4, box.height - own.height - 4)) + "px";
    }
    function fix(i) {
      pinned = i;
      pin.hidden = i < 0;
      if (i >= 0) {
        const close = element("button", { type: "button", className: "close" }, "×");
        close.setAttribute("aria-label", "Close");
        close.onclick = () => { fix(-1); canvas.focus(); };
        pin.replaceChildren(close, card(i, true));
        spot = null;
        hover(-1);
      }
      tell();
      draw();
    }
    function tell(x, y) { // the place under the pointer, as `embedstore unmap STORE X Y` takes it
      const at = spot ? [X(spot[0]), Y(spot[1])] : x === undefined ? null : [X(x), Y(y)];
      where.textContent = !at ? "" : `${spot ? "marked: " : ""}x y = ${at.map(exactly).join(" ")}`;
    }
    function go(i) {
      [cx, cy] = [xy[2 * i], xy[2 * i + 1]];
      scale = Math.max(scale, 6 * home);
      fix(i);
    }

    // ---- what is shown: legend and search
    function judge() {
      const codes = colouring.codes;
      for (let i = 0; i < count; i++) {
        const code = codes[i], out = (marked.size && !marked.has(code)) || (matches && !matches[i]);
        state[i] = hidden.has(code) ? 0 : out ? 1 : 2;
      }
      draw();
    }
    function legend() {
      const list = find("legend"), made = [];
      if (colouring.scale) {
        const ramp = element("canvas", { width: 256, height: 1, className: "ramp" }), pen = ramp.getContext("2d");
        for (let i = 0; i < 256; i++) { pen.fillStyle = colouring.colours[i]; pen.fillRect(i, 0, 1, 1); }
        const ends = element("span", { className: "ends" });
        ends.append(...colouring.scale.map((one) => element("span", {}, shown(one))));
        made.push(element("li", { className: "scale" }, ramp, ends));
        const grey = `${colouring.missing.toLocaleString("en")} items without a number are grey`;
        if (colouring.missing) made.push(element("li", { className: "note" }, grey));
      }
      colouring.values.forEach((value, code) => {
        const dot = element("span", { className: "dot" });
        dot.style.background = colouring.colours[code];
        const mark = element("button", { type: "button", className: "entry", title: "Show this one alone" }, dot,
          element("span", { className: "value" }, value),
          element("span", { className: "count" }, colouring.counts[code].toLocaleString("en")));
        const hide = element("button", { type: "button", className: "hide" }, "hide");
        hide.setAttribute("aria-label", "Hide " + value);
        for (const [button, set] of [[mark, marked], [hide, hidden]]) {
          button.setAttribute("aria-pressed", "false");
          button.onclick = () => {
            if (!set.delete(code)) set.add(code);
            button.setAttribute("aria-pressed", String(set.has(code)));
            judge();
          };
        }
        made.push(element("li", {}, mark, hide));
      });
      list.replaceChildren(...made);
    }
    function recolour(number) {
      colouring = colourings[number];
      marked.clear();
      hidden.clear();
      colours();
      legend();
      judge();
    }
    function search(text) {
      const wanted = text.trim().toLowerCase(), results = find("results"), said = find("matches");
      matches = wanted ? new Uint8Array(count) : null;
      let total = 0, first = []; // so few are drawn large, and listed
      if (wanted) {
        const inside = fields.map((field) => field.values.map((value) => value.toLowerCase().includes(wanted)));
        for (let i = 0; i < count; i++) {
          let hit = data.ids[i].toLowerCase().includes(wanted);
          for (let f = 0; !hit && f < fields.length; f++) hit = inside[f][fields[f].codes[i] - 1]; // of 0, undefined
          if (!hit) continue;
          matches[i] = 1;
          if (total++ < 1000) first.push(i);
        }
      }
      said.textContent = !wanted ? "" : `${total.toLocaleString("en")} ${total === 1 ? "item" : "items"}`;
      found = wanted && total <= 1000 ? first : null;
      results.replaceChildren(...first.slice(0, 30).map((i) => {
        const button = element("button", { type: "button", textContent: data.ids[i] });
        button.onclick = () => go(i);
        return element("li", {}, button);
      }));
      judge();
    }

    // ---- hands
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    const under = (x, y) => [cx + (x * dpr - canvas.width / 2) / scale, cy - (y * dpr - canvas.height / 2) / scale];
    const at = (x, y, reach) => { // the item of the picture there, or of a point nearby; -1 for none
      const [qx, qy] = under(x, y), cell = (q) => Math.floor((q * scale) / (34 * dpr));
      const tile = tiles.get(cell(qy) * 1e6 + cell(qx));
      return tile ?? Points.nearest(xy, index, qx, qy, (reach * dpr) / scale, (i) => state[i] === 2);
    };
    function zoom(by, x = canvas.width / dpr / 2, y = canvas.height / dpr / 2) {
      const before = under(x, y);
      scale = clamp(scale * by, 0.5 * home, 2000 * home);
      const after = under(x, y);
      cx = clamp(cx + before[0] - after[0], 0, data.extent[0]);
      cy = clamp(cy + before[1] - after[1], 0, data.extent[1]);
      hover(-1);
      move();
    }
    function pan(dx, dy) {
      cx = clamp(cx - (dx * dpr) / scale, 0, data.extent[0]);
      cy = clamp(cy + (dy * dpr) / scale, 0, data.extent[1]);
      move();
    }
    const fingers = new Map();
    let travelled = 0, typing = 0;
    canvas.onpointerdown = (event) => {
      if (event.button) return;
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, place(event));
      if (fingers.size === 1) travelled = 0;
      cross = false;
    };
    canvas.onpointermove = (event) => {
      const [x, y] = place(event), last = fingers.get(event.pointerId);
      if (!last) {
        if (event.pointerType !== "touch") hover(at(x, y, 12), x, y);
        return tell(...under(x, y));
      }
      fingers.set(event.pointerId, [x, y]);
      travelled += Math.hypot(x - last[0], y - last[1]);
      if (travelled < 5) return undefined;
      hover(-1);
      if (fingers.size === 2) {
        const other = [...fingers].find(([number]) => number !== event.pointerId)[1];
        const far = Math.hypot(x - other[0], y - other[1]), was = Math.hypot(last[0] - other[0], last[1] - other[1]);
        zoom(far / Math.max(was, 1), (x + other[0]) / 2, (y + other[1]) / 2);
        return pan((x - last[0]) / 2, (y - last[1]) / 2);
      }
      return pan(x - last[0], y - last[1]);
    };
    const lift = (event) => {
      if (!fingers.delete(event.pointerId) || event.type !== "pointerup" || travelled >= 5 || fingers.size) return;
      const [x, y] = place(event), i = at(x, y, event.pointerType === "touch" ? 22 : 12);
      spot = i < 0 ? under(x, y) : null;
      fix(i === pinned ? -1 : i);
    };
    canvas.onpointerup = canvas.onpointercancel = lift;
    canvas.onpointerleave = () => { hover(-1); tell(); };
    // Within a longer page the wheel scrolls that one, until the map has been clicked.
    canvas.addEventListener("wheel", (event) => {
      if (!whole && document.activeElement !== canvas && !event.ctrlKey) return;
      event.preventDefault();
      const steps = event.deltaMode ? event.deltaY * 16 : event.deltaY;
      zoom(Math.exp(-clamp(steps, -240, 240) * (event.ctrlKey ? 0.01 : 0.0022)), ...place(event));
    }, { passive: false });
    canvas.onkeydown = (event) => {
      const keys = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (keys[event.key]) { cross = true; pan(...keys[event.key]); tell(cx, cy); }
      else if (event.key === "+" || event.key === "=") zoom(1.4);
      else if (event.key === "-") zoom(1 / 1.4);
      else if (event.key === "0") { reset(); draw(); }
      else if (event.key === "Enter") fix(at(canvas.width / dpr / 2, canvas.height / dpr / 2, 400));
      else if (event.key === "Escape") { spot = null; cross = false; fix(-1); }
      else return;
      event.preventDefault();
    };
    find("in").onclick = () => zoom(1.6);
    find("out").onclick = () => zoom(1 / 1.6);
    find("home").onclick = () => { reset(); draw(); };
    pin.onkeydown = (event) => { if (event.key === "Escape") { fix(-1); canvas.focus(); } };
    find("search").oninput = (event) => {
      clearTimeout(typing);
      typing = setTimeout(() => search(event.target.value), 120);
    };
    const choice = find("colour");
    colourings.forEach((one, number) => choice.append(element("option", { value: number, textContent: one.title })));
    choice.onchange = () => recolour(Number(choice.value));
    if (find("mode")) find("mode").onchange = draw;
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { colours(); draw(); });
    recolour(0);
    new ResizeObserver(resize).observe(stage);
    resize();
    root.dataset.ready = "yes";
  }
  document.querySelectorAll(".map").forEach(start);
})();
