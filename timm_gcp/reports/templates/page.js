"use strict";
(() => {
  // Tables that a click on a heading sorts.
  const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
  const numeral = (text) => {
    const number = parseFloat(text.replace("−", "-").replace(/,/g, ""));
    return Number.isNaN(number) ? null : number;
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const numbers = head.classList.contains("n");
        const before = head.getAttribute("aria-sort");
        const up = before ? before === "descending" : !numbers;
        const body = table.tBodies[0];
        const rows = [...body.rows].map((row) => {
          const text = row.cells[column].textContent.trim();
          return [numbers ? numeral(text) : text, row];
        });
        rows.sort(([a], [b]) => {
          if (a === null || b === null) return (a === null) - (b === null); // what is not defined comes last
          return (up ? 1 : -1) * (numbers ? a - b : collator.compare(a, b));
        });
        body.append(...rows.map(([, row]) => row));
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
      });
    });
  }
  for (const input of document.querySelectorAll("input[data-filter]")) {
    const rows = document.getElementById(input.dataset.filter).tBodies[0].rows;
    input.addEventListener("input", () => {
      const text = input.value.trim().toLowerCase();
      for (const row of rows) row.hidden = !row.cells[0].textContent.toLowerCase().includes(text);
    });
  }

  // The confusion matrix.
  const canvas = document.getElementById("confusion");
  if (!canvas) return;
  const data = JSON.parse(document.getElementById("confusion-data").textContent);
  const readout = document.getElementById("cell");
  const number = data.names.length;
  const orders = { clustered: data.clustered, label: data.names.map((_, i) => i) };
  const cells = new Map(data.cells.map(([row, column, n]) => [row * number + column, n]));
  const LARGEST_CELL = 48, NAMED = 12, COUNTED = 19;
  const BARE = 24; // margin without names
  let order, place, side, named, margin, least, cell, left, top; // left, top: of the first visible cell, in cells

  function setOrder(name) {
    order = orders[name];
    place = new Array(number);
    order.forEach((label, at) => { place[label] = at; });
  }
  function layout() {
    const room = canvas.parentElement.clientWidth;
    named = Math.min(170, Math.max(70, room * 0.2));
    const fits = Math.min(room - named, 860) / number >= NAMED;
    margin = fits ? named : BARE;
    const plot = Math.min(room - margin, 860, number * LARGEST_CELL);
    side = margin + plot;
    const ratio = window.devicePixelRatio || 1;
    canvas.style.width = canvas.style.height = `${side}px`;
    canvas.width = canvas.height = Math.round(side * ratio);
    canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
    least = plot / number;
    whole();
  }
  function whole() { cell = least; left = top = 0; draw(); }
  function clamp() {
    cell = Math.min(Math.max(cell, least), Math.max(LARGEST_CELL, least));
    const most = Math.max(number - (side - margin) / cell, 0);
    left = Math.min(Math.max(left, 0), most);
    top = Math.min(Math.max(top, 0), most);
    canvas.style.touchAction = cell > least * 1.01 ? "none" : "pan-y";
  }
  function zoom(factor, x, y) {
    const column = left + (x - margin) / cell, row = top + (y - margin) / cell;
    cell = Math.min(Math.max(cell * factor, least), Math.max(LARGEST_CELL, least));
    left = column - (x - margin) / cell;
    top = row - (y - margin) / cell;
    draw();
  }
  function colours() {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim();
    return { right: read("--series-0"), wrong: read("--series-1"), ink: read("--ink"), paper: read("--paper"), muted: read("--muted"), rule: read("--rule") };
  }
  function draw() {
    margin = cell < NAMED ? BARE : named;
    clamp();
    const context = canvas.getContext("2d"), plot = side - margin, colour = colours();
    const font = getComputedStyle(document.body).fontFamily;
    context.clearRect(0, 0, side, side);
    context.save();
    context.beginPath();
    context.rect(margin, margin, plot, plot);
    context.clip();
    const size = Math.max(cell - (cell > 6 ? 1 : 0), 2); // cells of many classes stay visible
    context.font = `${Math.min(13, cell * 0.45)}px ${font}`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (const [row, column, n] of data.cells) {
      const x = margin + (place[column] - left) * cell, y = margin + (place[row] - top) * cell;
      if (x + size < margin || y + size < margin || x > side || y > side) continue;
      const share = n / data.images[row];
      const shade = 0.22 + 0.78 * Math.sqrt(share);
      context.globalAlpha = shade;
      context.fillStyle = row === column ? colour.right : colour.wrong;
      context.fillRect(x, y, size, size);
      if (cell >= COUNTED) {
        context.globalAlpha = 1;
        context.fillStyle = shade > 0.75 ? colour.paper : colour.ink;
        context.fillText(n, x + size / 2, y + size / 2, size);
      }
    }
    context.restore();
    context.strokeStyle = colour.rule;
    context.strokeRect(margin + 0.5, margin + 0.5, plot - 1, plot - 1);
    names(context, colour, font, plot);
  }
  function shortened(context, text, room) {
    if (context.measureText(text).width <= room) return text;
    let low = 0, high = text.length;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (context.measureText(text.slice(0, middle) + "…").width <= room) low = middle; else high = middle - 1;
    }
    return text.slice(0, low) + "…";
  }
  function names(context, colour, font, plot) {
    context.fillStyle = colour.muted;
    context.textBaseline = "middle";
    context.font = `12px ${font}`;
    if (cell < NAMED) {
      context.textAlign = "left";
      context.fillText("predicted class →", margin, margin / 2);
      context.save();
      context.translate(margin / 2, margin);
      context.rotate(-Math.PI / 2);
      context.textAlign = "right";
      context.fillText("← true class", 0, 0);
      context.restore();
      return;
    }
    context.fillStyle = colour.ink;
    context.font = `${Math.min(12.5, cell * 0.8)}px ${font}`;
    const last = Math.min(number, Math.ceil(left + plot / cell));
    for (let at = Math.floor(left); at < last; at++) {
      const x = margin + (at - left + 0.5) * cell, y = margin + (at - top + 0.5) * cell;
      if (x < margin || x > side) continue;
      const text = shortened(context, data.names[order[at]], margin - 12);
      context.save();
      context.translate(x, margin - 6);
      context.rotate(-Math.PI / 2);
      context.textAlign = "left";
      context.fillText(text, 0, 0);
      context.restore();
    }
    context.textAlign = "right";
    const end = Math.min(number, Math.ceil(top + plot / cell));
    for (let at = Math.floor(top); at < end; at++) {
      const y = margin + (at - top + 0.5) * cell;
      if (y < margin || y > side) continue;
      context.fillText(shortened(context, data.names[order[at]], margin - 12), margin - 6, y);
    }
  }
  function at(event) {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }
  function tell(event) {
    const [x, y] = at(event);
    const column = Math.floor(left + (x - margin) / cell), row = Math.floor(top + (y - margin) / cell);
    if (x < margin || y < margin || column < 0 || row < 0 || column >= number || row >= number) {
      readout.textContent = "\u00a0";
      return;
    }
    const [label, guess] = [order[row], order[column]];
    const n = cells.get(label * number + guess) || 0, images = data.images[label];
    const share = images ? `, ${(100 * n / images).toFixed(1)} %` : "";
    const what = label === guess ? "recognised" : `taken for ${data.names[guess]}`;
    readout.textContent = `${data.names[label]}: ${n} of ${images} images ${what}${share}`;
  }

  const pointers = new Map();
  let distance = 0;
  canvas.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, at(event));
    canvas.setPointerCapture(event.pointerId);
    distance = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    tell(event);
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = at(event);
    pointers.set(event.pointerId, now);
    if (pointers.size === 2) {
      const [[x1, y1], [x2, y2]] = [...pointers.values()];
      const apart = Math.hypot(x1 - x2, y1 - y2);
      if (distance) zoom(apart / distance, (x1 + x2) / 2, (y1 + y2) / 2);
      distance = apart;
    } else {
      left -= (now[0] - before[0]) / cell;
      top -= (now[1] - before[1]) / cell;
      draw();
    }
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, (event) => { pointers.delete(event.pointerId); distance = 0; });
  }
  canvas.addEventListener("pointerleave", () => { readout.textContent = "\u00a0"; });
  canvas.addEventListener("dblclick", (event) => zoom(2, ...at(event)));
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 200), ...at(event));
  }, { passive: false });
  const middle = () => margin + (side - margin) / 2;
  canvas.addEventListener("keydown", (event) => {
    const step = 40 / cell;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (moves[event.key]) { left += moves[event.key][0]; top += moves[event.key][1]; draw(); }
    else if (event.key === "+" || event.key === "=") zoom(1.6, middle(), middle());
    else if (event.key === "-") zoom(0.625, middle(), middle());
    else if (event.key === "0") whole();
    else return;
    event.preventDefault();
  });
  for (const button of document.querySelectorAll("button[data-zoom]")) {
    const factor = Number(button.dataset.zoom);
    button.addEventListener("click", () => (factor ? zoom(factor, middle(), middle()) : whole()));
  }
  for (const radio of document.querySelectorAll("input[name=order]")) {
    radio.addEventListener("change", () => { setOrder(radio.value); draw(); });
  }
  setOrder("clustered");
  layout();
  let width = window.innerWidth;
  window.addEventListener("resize", () => { if (window.innerWidth !== width) { width = window.innerWidth; layout(); } });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
