// A chart as a picture to keep: its title, its curves and whose they are, on the page's ground.

import { colour } from "./chart.js";

const LINE = 18; // pixels of a line of text

export function savePicture(chart) {
  const { canvas } = chart.plot.ctx;
  const scale = canvas.width / chart.size().width;
  const named = chart.drawn.filter((one) => !one.edge && !one.attempt);
  const legend = named.length > 1 ? named : [];
  const style = getComputedStyle(document.documentElement);
  const picture = document.createElement("canvas");
  picture.width = canvas.width;
  picture.height = canvas.height + scale * LINE * (1.6 + legend.length);
  const ink = picture.getContext("2d");
  ink.fillStyle = style.getPropertyValue("--card");
  ink.fillRect(0, 0, picture.width, picture.height);
  ink.drawImage(canvas, 0, scale * LINE * 1.6);
  ink.font = `${13 * scale}px system-ui, sans-serif`;
  ink.fillStyle = style.getPropertyValue("--ink");
  ink.fillText(chart.metric, 8 * scale, 18 * scale);
  legend.forEach((one, row) => {
    const y = canvas.height + scale * LINE * (2.1 + row);
    ink.fillStyle = colour(one.place);
    for (const [from, width] of one.place > 5 ? [[8, 5], [17, 5]] : [[8, 14]]) ink.fillRect(from * scale, y - 6 * scale, width * scale, 3 * scale);
    ink.fillStyle = style.getPropertyValue("--ink");
    ink.fillText(one.name, 28 * scale, y);
  });
  picture.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${chart.metric.replaceAll(/[^\w.-]+/g, "_")}.png`;
    link.click();
    URL.revokeObjectURL(link.href);
  });
}
