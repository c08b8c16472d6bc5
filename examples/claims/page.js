"use strict";
// Draws the plot of each claim into its place.
const drawings = JSON.parse(document.getElementById("data").textContent);

function draw() {
  drawings.forEach((drawing, i) => {
    const place = document.getElementById(`plot-${i + 1}`), width = Math.max(220, place.clientWidth);
    const made = drawing.rows
      ? drawing.rows.length && intervals(drawing.rows, null, width)
      : drawing.series.length && curves(drawing.series, drawing.names, width, { share: drawing.share });
    if (made) place.replaceChildren(made);
  });
}

draw();
addEventListener("resize", draw);
