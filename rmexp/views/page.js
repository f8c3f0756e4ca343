// Draws the embedded figures, in the colours of the page, again when light and dark change.
"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");

function painted(layout) {
  const css = getComputedStyle(document.documentElement);
  const colour = (name) => css.getPropertyValue(name).trim();
  const copy = structuredClone(layout);
  delete copy.template;
  delete copy.width;
  delete copy.height;
  Object.assign(copy, {
    autosize: true,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { ...copy.font, color: colour("--text"), size: 12 },
    margin: { l: 60, r: 20, t: 20, b: 50, ...copy.margin },
    hoverlabel: { bgcolor: colour("--card"), font: { color: colour("--text") } },
  });
  for (const axis of ["xaxis", "yaxis", ...Object.keys(copy)]) {
    if (!/^[xy]axis\d*$/.test(axis)) continue;
    copy[axis] = {
      automargin: true, gridcolor: colour("--line"), linecolor: colour("--line"),
      zerolinecolor: colour("--line"), ...copy[axis],
    };
  }
  for (const note of copy.annotations ?? []) note.font = { ...note.font, color: colour("--text") };
  for (const shape of copy.shapes ?? []) shape.line = { ...shape.line, color: colour("--soft") };
  return copy;
}

function draw() {
  for (const [id, figure] of Object.entries(figures)) {
    Plotly.react(id, figure.data, painted(figure.layout), {
      displaylogo: false, responsive: true, displayModeBar: false,
    });
  }
}

draw();
dark.addEventListener("change", draw);
