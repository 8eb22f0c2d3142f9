"use strict";
// A click on a column's heading sorts the table by it, a second click the other way round; what is undefined stays last.
for (const button of document.querySelectorAll("th > button")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement, body = heading.closest("table").tBodies[0];
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[heading.cellIndex].dataset.value;
    const compare = (a, b) => "number" in heading.dataset ? a - b : a.localeCompare(b, undefined, { numeric: true });
    const known = [...body.rows].filter((row) => key(row) !== "");
    const unknown = [...body.rows].filter((row) => key(row) === "");
    known.sort((a, b) => (down ? -1 : 1) * compare(key(a), key(b)));
    body.append(...known, ...unknown);
  });
}
// The pointer over a chart, or the arrow keys in one, show the values of the nearest logged step.
for (const chart of document.querySelectorAll("svg.read")) {
  const rule = chart.querySelector(".rule"), said = chart.parentElement.querySelector(".said");
  const lines = [...chart.querySelectorAll("polyline[data-y]")].map((line) => ({
    name: line.dataset.name,
    pixels: line.getAttribute("points").split(" ").map((point) => parseFloat(point)),
    x: line.dataset.x.split(" "),
    y: line.dataset.y.split(" "),
  }));
  const closest = (pixels, at) =>
    pixels.reduce((best, pixel, i) => Math.abs(pixel - at) < Math.abs(pixels[best] - at) ? i : best, 0);
  const show = (at) => {
    const found = lines.map((line) => ({ line, i: closest(line.pixels, at) }));
    const nearest = found.reduce((a, b) =>
      Math.abs(a.line.pixels[a.i] - at) <= Math.abs(b.line.pixels[b.i] - at) ? a : b);
    rule.setAttribute("d", `M${nearest.line.pixels[nearest.i]} ${rule.dataset.span}`);
    said.textContent = found.map(({ line, i }) => `${line.name} ${line.y[i]} at ${line.x[i]}`).join(" · ");
  };
  const hide = () => { rule.removeAttribute("d"); said.textContent = ""; };
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    show((event.clientX - box.left) * chart.viewBox.baseVal.width / box.width);
  });
  chart.addEventListener("pointerleave", hide);
  const stops = [...new Set(lines.flatMap((line) => line.pixels))].sort((a, b) => a - b);
  let stop = -1;
  chart.addEventListener("keydown", (event) => {
    const last = stops.length - 1;
    const next = { ArrowLeft: Math.max(stop - 1, 0), ArrowRight: Math.min(stop + 1, last), Home: 0, End: last }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    show(stops[stop = next]);
  });
  chart.addEventListener("blur", hide);
}
// On a map of images, the pointer or the arrow keys show an image; the buttons of classes leave only theirs in colour.
for (const map of document.querySelectorAll(".map")) {
  const svg = map.querySelector("svg"), ring = svg.querySelector("circle"), paths = [...svg.querySelectorAll("path")];
  const title = map.querySelector(".seen b"), text = map.querySelector(".seen .text"), tile = map.querySelector(".tile-of i");
  const sheets = [...document.querySelectorAll("template[data-sheet]")].map((each) => each.dataset.sheet);
  const points = paths.flatMap((path, group) => {
    const places = path.getAttribute("d").split("M").slice(1).map((each) => each.split("h")[0].split(" ").map(Number));
    return JSON.parse(path.dataset.points).map(([name, label, number], i) => ({ group, name, label, number, x: places[i][0], y: places[i][1] }));
  });
  const picked = new Set();
  const active = () => (picked.size ? points.filter((point) => picked.has(point.group)) : points);
  let at = null;
  const show = (point) => {
    at = point;
    ring.setAttribute("cx", point.x);
    ring.setAttribute("cy", point.y);
    ring.setAttribute("visibility", "visible");
    title.textContent = point.label;
    text.textContent = point.name;
    if (!tile) return;
    const across = Number(map.dataset.across), place = point.number % across ** 2, side = tile.offsetWidth;
    const sheet = point.number < 0 ? undefined : sheets[Math.floor(point.number / across ** 2)];
    tile.style.backgroundImage = sheet ? `url(${sheet})` : "none";
    tile.style.backgroundPosition = `-${(place % across) * side}px -${Math.floor(place / across) * side}px`;
  };
  const nearest = (x, y, most) => {
    let best = null, least = most * most;
    for (const point of active()) {
      const far = (point.x - x) ** 2 + (point.y - y) ** 2;
      if (far < least) [best, least] = [point, far];
    }
    return best;
  };
  const pointed = (event) => {
    const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const found = nearest(place.x, place.y, 40);
    if (found) show(found);
  };
  svg.addEventListener("pointermove", pointed);
  svg.addEventListener("pointerdown", pointed);
  svg.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way) return;
    event.preventDefault();
    if (!at || (picked.size && !picked.has(at.group))) {
      const first = nearest(500, 500, 2000);
      if (first) show(first);
      return;
    }
    let best = null, least = Infinity; // the nearest one ahead; what lies aside counts twice
    for (const point of active()) {
      const ahead = (point.x - at.x) * way[0] + (point.y - at.y) * way[1];
      const aside = Math.abs((point.x - at.x) * way[1]) + Math.abs((point.y - at.y) * way[0]);
      if (point !== at && ahead > 0 && ahead >= aside / 2 && ahead + 2 * aside < least) [best, least] = [point, ahead + 2 * aside];
    }
    if (best) show(best);
  });
  map.querySelectorAll(".legend button").forEach((button, group) => {
    button.addEventListener("click", () => {
      picked.has(group) ? picked.delete(group) : picked.add(group);
      button.setAttribute("aria-pressed", picked.has(group));
      paths[group].classList.toggle("picked", picked.has(group));
      map.classList.toggle("chosen", picked.size > 0);
    });
  });
}
