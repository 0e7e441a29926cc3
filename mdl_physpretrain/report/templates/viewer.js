// failing trajectories in three dimensions, drawn on a canvas, beside one that stays physical
(() => {
  const data = document.getElementById("scene"), root = document.getElementById("viewer");
  const canvases = [...(root?.querySelectorAll("canvas") ?? [])], canvas = canvases[0];
  if (!data || !canvas?.getContext("2d")) return;
  const { colours, frames } = JSON.parse(data.textContent);
  const text = document.getElementById("frame-text"), list = root.querySelector(".frames");
  const radius = 0.5; // drawn over covalent
  const player = root.querySelector(".player"), play = player.querySelector("button");
  const slider = player.querySelector("input"), clock = player.querySelector("output"), lost = player.querySelector(".lost");
  const beside = root.querySelector(".beside");
  let frame = null, bodies = [], steps = [], timer = null, played = false;
  let reach = 1, spin = null, zoom = 1, shift = [0, 0, 0], extent = [1, 1]; // shift: what is looked at, from the centre

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

  // a trajectory: its last frame, what its atoms moved before that, the pair that is followed
  const body = (source, pair, mark) => {
    const motion = source.motion, n = source.positions.length;
    const bytes = motion ? Uint8Array.from(atob(motion.moved), (c) => c.charCodeAt(0)) : null;
    const moved = bytes ? new DataView(bytes.buffer) : null;
    const made = { pair, mark, shown: source.shown, steps: [...(motion?.steps ?? []), source.shown] };
    const cellOf = (k) => (k < made.steps.length - 1 && motion.cells ? motion.cells[k] : source.cell);
    const positionsOf = (k) => {
      if (k === made.steps.length - 1) return source.positions;
      return source.positions.map((at, i) => at.map((x, c) => x + moved.getInt16(2 * (3 * (k * n + i) + c), true) / 100));
    };
    // from an atom to the image of its partner, less the way to the partner itself
    const image = pair ? add(pair.vector, add(source.positions[pair.i], scaled(source.positions[pair.j], -1))) : null;
    made.show = (k) => {
      const positions = positionsOf(k), vectors = cellOf(k).filter((v) => v.some((x) => x !== 0));
      made.corners = [[0, 0, 0]];
      made.edges = [];
      for (const v of vectors) {
        const { edges, corners } = made;
        made.edges = [...edges, ...edges.map(([a, b]) => [add(a, v), add(b, v)]), ...corners.map((c) => [c, add(c, v)])];
        made.corners = [...corners, ...corners.map((c) => add(c, v))];
      }
      made.items = positions.map((at, i) => ({ at, symbol: frame.symbols[i], r: radius * frame.radii[i], i }));
      made.bond = null;
      if (pair) {
        const at = add(positions[pair.j], image);
        if (Math.hypot(...image) > 0.02) {
          made.items.push({ at, symbol: frame.symbols[pair.j], r: radius * frame.radii[pair.j], i: -1, ghost: true });
        }
        made.bond = [positions[pair.i], at];
      }
      if (!vectors.length) made.corners = [];
    };
    made.show(made.steps.length - 1);
    made.points = [...made.items.map((item) => item.at), ...made.corners];
    const low = [0, 1, 2].map((k) => Math.min(...made.points.map((p) => p[k])));
    const high = [0, 1, 2].map((k) => Math.max(...made.points.map((p) => p[k])));
    made.centre = scaled(add(low, high), 0.5);
    made.reach = Math.max(1.5, ...made.points.map((p) => Math.hypot(...add(p, scaled(made.centre, -1))))) + 0.4;
    return made;
  };
  const load = (k) => {
    pause();
    frame = frames[k];
    bodies = [body(frame, frame.pair, frame.mark)];
    if (frame.beside) bodies.push(body(frame.beside, null, null));
    beside.hidden = !frame.beside;
    reach = Math.max(...bodies.map((b) => b.reach));
    steps = [...new Set(bodies.flatMap((b) => b.steps))].sort((a, b) => a - b);
    player.hidden = steps.length < 2;
    slider.max = String(steps.length - 1);
    const failure = steps.findIndex((step) => step >= Math.min(frame.step, frame.shown));
    lost.style.left = `${(100 * failure) / Math.max(1, steps.length - 1)}%`;
    lost.textContent = `failure, ${time(frame.step)}`;
    lost.classList.toggle("late", failure > (steps.length - 1) / 2);
    const who = (one) => `${one.arm}, seed ${one.seed}`;
    root.querySelector(".who").textContent = frame.beside ? who(frame) : "";
    beside.querySelector(".who").textContent = frame.beside ? `${who(frame.beside)}: stays physical` : "";
    text.textContent = frame.text;
    canvas.setAttribute("aria-label", `${frame.formula}, ${frame.structure}, ${frame.arm}`);
    canvases[1].setAttribute("aria-label", frame.beside ? `${frame.formula}, ${frame.structure}, ${frame.beside.arm}` : "");
    for (const button of list.children) button.setAttribute("aria-pressed", String(Number(button.dataset.k) === k));
    for (const entry of root.querySelectorAll("[data-element]")) entry.hidden = !frame.symbols.includes(entry.dataset.element);
    reset();
    played = false;
    go(steps.indexOf(frame.shown));
  };

  // time
  const time = (step) => {
    if (!frame.timestep) return `step ${step}`;
    const fs = step * frame.timestep, last = Math.max(frame.shown, frame.beside?.shown ?? 0) * frame.timestep;
    return last < 1000 ? `${+fs.toFixed(1)} fs` : `${(fs / 1000).toFixed(last < 1e4 ? 3 : 2)} ps`;
  };
  const go = (k) => { // every trajectory shows its latest frame that is not later
    const step = steps[k];
    slider.value = String(k);
    for (const one of bodies) one.show(Math.max(0, one.steps.findLastIndex((s) => s <= step)));
    const ended = step > frame.shown ? ", ended" : step >= frame.step ? ", unphysical" : "";
    clock.textContent = time(step) + ended;
    slider.setAttribute("aria-valuetext", clock.textContent);
    draw();
  };
  const pause = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "▶";
    play.setAttribute("aria-label", "play");
  };
  const toggle = () => {
    if (timer !== null || steps.length < 2) return pause();
    if (!played || Number(slider.value) === steps.length - 1) go(0);
    played = true;
    play.textContent = "❚❚";
    play.setAttribute("aria-label", "pause");
    timer = setInterval(() => {
      go(Number(slider.value) + 1);
      if (Number(slider.value) === steps.length - 1) pause();
    }, 90);
  };
  play.addEventListener("click", toggle);
  slider.addEventListener("input", () => { pause(); played = true; go(Number(slider.value)); });

  // the turn in which the offending pair lies in the picture and nothing stands before it
  const best = () => {
    const { bond, items } = bodies[0];
    if (!bond) return start();
    const middle = scaled(add(...bond), 0.5);
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
    const seen = bodies.flatMap((b) => b.points.map((p) => turned(spin, add(p, scaled(b.centre, -1)))));
    extent = [0, 1].map((k) => Math.max(1, ...seen.map((p) => Math.abs(p[k]) + 0.8)));
    zoom = 1;
    shift = [0, 0, 0];
    draw();
  };
  const lookAtPair = () => {
    const { bond, centre } = bodies[0];
    if (!bond) return;
    shift = add(scaled(add(...bond), 0.5), scaled(centre, -1));
    zoom = Math.max(1, reach / 3.2);
    const [x, , z] = turned(spin, add(bond[1], scaled(bond[0], -1))); // turn the bond into the plane of the picture
    spin = product(about.y(Math.atan2(z, x)), spin);
    draw();
  };

  const style = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const shade = (colour, f) => { // towards white (f > 0) or black
    const n = parseInt(colour.slice(1), 16);
    const mix = [n >> 16, (n >> 8) & 255, n & 255].map((c) => Math.round(f > 0 ? c + (255 - c) * f : c * (1 + f)));
    return `rgb(${mix.join(",")})`;
  };
  const draw = () => bodies.forEach((one, k) => paint(canvases[k], one));
  const paint = (canvas, one) => {
    const pen = canvas.getContext("2d"), { items, edges, bond, pair, mark } = one, focus = add(one.centre, shift);
    const width = canvas.clientWidth, height = canvas.clientHeight, dpr = window.devicePixelRatio || 1;
    if (!width || !height) return;
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
      const partner = pair && (item.ghost || item.i === pair.i || item.i === pair.j);
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
      pen.globalAlpha = item.ghost ? 0.55 : partner || item.i === mark ? 1 : fog;
      pen.fillStyle = light;
      pen.beginPath();
      pen.arc(at.x, at.y, r, 0, 7);
      pen.fill();
      if (partner || item.i === mark) {
        pen.globalAlpha = 1;
        pen.strokeStyle = item.i === mark ? caution : wrong;
        pen.lineWidth = item.i === mark ? 3.5 : 2;
        pen.setLineDash(item.ghost ? [4, 3] : []);
        pen.beginPath();
        pen.arc(at.x, at.y, r + (item.i === mark ? 3 : 0), 0, 7);
        pen.stroke();
        pen.setLineDash([]);
      }
    }
    pen.globalAlpha = 1;
    if (bond) {
      const [a, b] = bond.map(place);
      pen.strokeStyle = wrong;
      pen.lineWidth = 4;
      pen.lineCap = "round";
      pen.beginPath();
      pen.moveTo(a.x, a.y);
      pen.lineTo(b.x, b.y);
      pen.stroke();
      const label = `${Math.hypot(...add(bond[1], scaled(bond[0], -1))).toFixed(2)} Å`;
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
    play: toggle, left: () => turn(-0.2, 0), right: () => turn(0.2, 0), up: () => turn(0, -0.2), down: () => turn(0, 0.2),
    in: () => magnify(1.25), out: () => magnify(0.8), pair: lookAtPair, reset,
  };
  const keys = { " ": "play", ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down", "+": "in", "=": "in", "-": "out", 0: "reset", Home: "reset" };
  for (const button of root.querySelectorAll("[data-do]")) button.addEventListener("click", actions[button.dataset.do]);

  // one pointer turns, two zoom
  const listen = (canvas) => {
    const held = new Map();
    const spread = () => { const [a, b] = [...held.values()]; return Math.hypot(a.x - b.x, a.y - b.y); };
    canvas.addEventListener("keydown", (event) => {
      const action = keys[event.key];
      if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      actions[action]();
    });
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
    new ResizeObserver(draw).observe(canvas);
  };
  canvases.forEach(listen);

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
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  load(0);
})();
