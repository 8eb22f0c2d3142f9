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
