// failing frames in three dimensions, drawn on a canvas
(() => {
  const data = document.getElementById("scene"), root = document.getElementById("viewer");
  const canvas = root?.querySelector("canvas"), pen = canvas?.getContext("2d");
  if (!data || !pen) return;
  const { colours, frames } = JSON.parse(data.textContent);
  const text = document.getElementById("frame-text"), list = root.querySelector(".frames");
  const radius = 0.5; // drawn over covalent
  let frame = null, items = [], edges = [], reach = 1, spin = null, zoom = 1, focus = [0, 0, 0], extent = [1, 1];

  // vectors and rotations; a rotation is three rows: right, up, towards the reader
  const add = (a, b) => a.map((x, k) => x + b[k]);
  const scaled = (a, s) => a.map((x) => x * s);
  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  const turned = (m, v) => [dot(m[0], v), dot(m[1], v), dot(m[2], v)];
  const product = (a, b) => a.map((row) => [0, 1, 2].map((k) => row[0] * b[0][k] + row[1] * b[1][k] + row[2] * b[2][k]));
  const about = { // up axis, right axis
    y: (w) => [[Math.cos(w), 0, Math.sin(w)], [0, 1, 0], [-Math.sin(w), 0, Math.cos(w)]],
    x: (w) => [[1, 0, 0], [0, Math.cos(w), -Math.sin(w)], [0, Math.sin(w), Math.cos(w)]],
  };
  const upright = [[1, 0, 0], [0, 0, 1], [0, -1, 0]];
  const start = () => product(about.x(0.35), product(about.y(-0.5), upright));

  const load = (k) => {
    frame = frames[k];
    const vectors = frame.cell.filter((v) => v.some((x) => x !== 0));
    let corners = [[0, 0, 0]];
    edges = [];
    for (const v of vectors) {
      edges = [...edges, ...edges.map(([a, b]) => [add(a, v), add(b, v)]), ...corners.map((c) => [c, add(c, v)])];
      corners = [...corners, ...corners.map((c) => add(c, v))];
    }
    items = frame.positions.map((at, i) => ({ at, symbol: frame.symbols[i], r: radius * frame.radii[i], i }));
    const pair = frame.pair;
    frame.ghost = null;
    if (pair) {
      const at = add(frame.positions[pair.i], pair.vector), there = frame.positions[pair.j];
      if (Math.hypot(...add(at, scaled(there, -1))) > 0.02) {
        items.push({ at, symbol: frame.symbols[pair.j], r: radius * frame.radii[pair.j], i: -1, ghost: true });
      }
      frame.bond = [frame.positions[pair.i], at];
    }
    const points = [...items.map((item) => item.at), ...(vectors.length ? corners : [])];
    const low = [0, 1, 2].map((k) => Math.min(...points.map((p) => p[k])));
    const high = [0, 1, 2].map((k) => Math.max(...points.map((p) => p[k])));
    frame.centre = scaled(add(low, high), 0.5);
    frame.points = points;
    reach = Math.max(1.5, ...points.map((p) => Math.hypot(...add(p, scaled(frame.centre, -1))))) + 0.4;
    reset();
    text.textContent = frame.text;
    canvas.setAttribute("aria-label", `${frame.formula}, ${frame.structure}, ${frame.arm}`);
    for (const button of list.children) button.setAttribute("aria-pressed", String(Number(button.dataset.k) === k));
    for (const entry of root.querySelectorAll("[data-element]")) entry.hidden = !frame.symbols.includes(entry.dataset.element);
  };
  // the turn in which the offending pair lies in the picture and nothing stands before it
  const best = () => {
    if (!frame.bond) return start();
    const middle = scaled(add(...frame.bond), 0.5);
    let found = start(), least = Infinity;
    for (let k = 0; k < 36; k++) {
      const view = product(about.x(0.35), product(about.y((k * Math.PI) / 18 - 0.5), upright));
      let cost = Math.abs(turned(view, frame.pair.vector)[2]) / (frame.pair.distance || 1);
      for (const item of items) {
        const [x, y, z] = turned(view, add(item.at, scaled(middle, -1)));
        if (z > 0.5 && Math.hypot(x, y) < item.r + 0.7) cost += 1;
      }
      if (cost < least) [found, least] = [view, cost];
    }
    return found;
  };
  const reset = () => {
    spin = best();
    const seen = frame.points.map((p) => turned(spin, add(p, scaled(frame.centre, -1))));
    extent = [0, 1].map((k) => Math.max(1, ...seen.map((p) => Math.abs(p[k]) + 0.8)));
    zoom = 1;
    focus = frame.centre;
    draw();
  };
  const lookAtPair = () => {
    if (!frame.bond) return;
    focus = scaled(add(...frame.bond), 0.5);
    zoom = Math.max(1, reach / 3.2);
    const [x, , z] = turned(spin, frame.pair.vector); // turn the bond into the plane of the picture
    spin = product(about.y(Math.atan2(z, x)), spin);
    draw();
  };

  const style = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const shade = (colour, f) => { // towards white (f > 0) or black
    const n = parseInt(colour.slice(1), 16);
    const mix = [n >> 16, (n >> 8) & 255, n & 255].map((c) => Math.round(f > 0 ? c + (255 - c) * f : c * (1 + f)));
    return `rgb(${mix.join(",")})`;
  };
  const draw = () => {
    const width = canvas.clientWidth, height = canvas.clientHeight, dpr = window.devicePixelRatio || 1;
    if (!width || !height || !frame) return;
    if (canvas.width !== Math.round(width * dpr) || canvas.height !== Math.round(height * dpr)) {
      canvas.width = Math.round(width * dpr);
      canvas.height = Math.round(height * dpr);
    }
    pen.setTransform(dpr, 0, 0, dpr, 0, 0);
    pen.clearRect(0, 0, width, height);
    const paper = style("--paper"), muted = style("--muted"), wrong = style("--wrong"), caution = style("--lindemann");
    // as large as this view allows, but not so large that another view would not fit at all
    const fitting = 0.85 * Math.min(width / 2 / extent[0], height / 2 / extent[1]);
    const scale = zoom * Math.min(fitting, 1.5 * Math.min(width, height) / 2 / reach);
    const place = (p) => {
      const [x, y, z] = turned(spin, add(p, scaled(focus, -1)));
      const near = 1 / (1 - 0.35 * Math.max(-1.5, Math.min(1.5, z / reach)) * 0.5); // a little perspective
      return { x: width / 2 + x * scale * near, y: height / 2 - y * scale * near, z, near };
    };
    const parts = [];
    for (const [a, b] of edges) {
      for (let k = 0; k < 8; k++) { // short pieces, so that atoms can stand between them
        const from = place(add(scaled(a, 1 - k / 8), scaled(b, k / 8)));
        const to = place(add(scaled(a, 1 - (k + 1) / 8), scaled(b, (k + 1) / 8)));
        parts.push({ z: (from.z + to.z) / 2, from, to });
      }
    }
    for (const item of items) {
      const at = place(item.at);
      parts.push({ z: at.z, item, at });
    }
    parts.sort((a, b) => a.z - b.z);
    for (const { z, from, to, item, at } of parts) {
      const fog = Math.max(0.35, Math.min(1, 0.72 + 0.4 * z / reach));
      if (!item) {
        pen.globalAlpha = fog;
        pen.strokeStyle = muted;
        pen.lineWidth = 1;
        pen.beginPath();
        pen.moveTo(from.x, from.y);
        pen.lineTo(to.x, to.y);
        pen.stroke();
        continue;
      }
      const r = Math.max(2, item.r * scale * at.near), colour = colours[item.symbol];
      const partner = frame.pair && (item.ghost || item.i === frame.pair.i || item.i === frame.pair.j);
      const light = pen.createRadialGradient(at.x - 0.35 * r, at.y - 0.4 * r, 0.1 * r, at.x, at.y, r);
      light.addColorStop(0, shade(colour, 0.55));
      light.addColorStop(0.55, colour);
      light.addColorStop(1, shade(colour, -0.35));
      pen.globalAlpha = 1;
      if (!item.ghost) {
        pen.fillStyle = paper; // fog: the atom fades into the paper, not into what is behind it
        pen.beginPath();
        pen.arc(at.x, at.y, r, 0, 7);
        pen.fill();
      }
      pen.globalAlpha = item.ghost ? 0.55 : partner || item.i === frame.mark ? 1 : fog;
      pen.fillStyle = light;
      pen.beginPath();
      pen.arc(at.x, at.y, r, 0, 7);
      pen.fill();
      if (partner || item.i === frame.mark) {
        pen.globalAlpha = 1;
        pen.strokeStyle = item.i === frame.mark ? caution : wrong;
        pen.lineWidth = item.i === frame.mark ? 3.5 : 2;
        pen.setLineDash(item.ghost ? [4, 3] : []);
        pen.beginPath();
        pen.arc(at.x, at.y, r + (item.i === frame.mark ? 3 : 0), 0, 7);
        pen.stroke();
        pen.setLineDash([]);
      }
    }
    pen.globalAlpha = 1;
    if (frame.bond) {
      const [a, b] = frame.bond.map(place);
      pen.strokeStyle = wrong;
      pen.lineWidth = 4;
      pen.lineCap = "round";
      pen.beginPath();
      pen.moveTo(a.x, a.y);
      pen.lineTo(b.x, b.y);
      pen.stroke();
      const label = `${frame.pair.distance.toFixed(2)} Å`;
      pen.font = "600 14px system-ui, sans-serif";
      const x = Math.min((a.x + b.x) / 2 + 12, width - pen.measureText(label).width - 4);
      const y = Math.max((a.y + b.y) / 2 - 12, 16);
      pen.lineWidth = 4;
      pen.strokeStyle = paper;
      pen.lineJoin = "round";
      pen.strokeText(label, x, y);
      pen.fillStyle = wrong;
      pen.fillText(label, x, y);
    }
  };

  const turn = (x, y) => { spin = product(about.x(y), product(about.y(x), spin)); draw(); };
  const magnify = (f) => { zoom = Math.max(0.4, Math.min(30, zoom * f)); draw(); };
  const actions = {
    left: () => turn(-0.2, 0), right: () => turn(0.2, 0), up: () => turn(0, -0.2), down: () => turn(0, 0.2),
    in: () => magnify(1.25), out: () => magnify(0.8), pair: lookAtPair, reset,
  };
  const keys = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down", "+": "in", "=": "in", "-": "out", 0: "reset", Home: "reset" };
  canvas.addEventListener("keydown", (event) => {
    const action = keys[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    actions[action]();
  });
  for (const button of root.querySelectorAll("[data-do]")) button.addEventListener("click", actions[button.dataset.do]);

  // one pointer turns, two zoom
  const held = new Map();
  const spread = () => { const [a, b] = [...held.values()]; return Math.hypot(a.x - b.x, a.y - b.y); };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    held.set(event.pointerId, { x: event.clientX, y: event.clientY });
  });
  canvas.addEventListener("pointermove", (event) => {
    const last = held.get(event.pointerId);
    if (!last) return;
    const before = held.size === 2 ? spread() : 0;
    held.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (held.size === 1) turn((event.clientX - last.x) * 0.01, (event.clientY - last.y) * 0.01);
    else if (held.size === 2 && before > 0) magnify(spread() / before);
  });
  for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (event) => held.delete(event.pointerId));
  canvas.addEventListener("wheel", (event) => { // the page scrolls unless the picture was chosen
    if (document.activeElement !== canvas && !event.ctrlKey) return;
    event.preventDefault();
    magnify(Math.exp(-event.deltaY * 0.0015));
  }, { passive: false });

  frames.forEach((one, k) => {
    const button = document.createElement("button"), small = document.createElement("small");
    button.type = "button";
    button.dataset.k = String(k);
    button.textContent = one.arm;
    small.textContent = `${one.formula} · step ${one.step}`;
    button.title = `${one.structure}, seed ${one.seed}, ${one.condition}`;
    button.append(small);
    button.addEventListener("click", () => load(k));
    list.append(button);
  });
  root.hidden = false;
  document.documentElement.classList.add("with-viewer");
  new ResizeObserver(draw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  load(0);
})();
