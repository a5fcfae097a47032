"use strict";
/* How data are drawn: images as pixels, rows as tables in words, counts and sequences as charts. */

function element(name, attributes = {}, ...inside) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...inside.filter((each) => each !== null && each !== undefined));
  return made;
}

const short = (value, digits = 3) =>
  value === null || value === undefined ? "unknown"
    : Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toExponential(digits - 1)
      : Number.isInteger(value) ? String(value) : value.toFixed(digits);

/* One image as a canvas, [C, H, W] in rows; values outside the range are cut, none is rescaled. */
function picture(world, x, label, side) {
  const [channels, height, width] = world.shape, [low, high] = world.range;
  const canvas = element("canvas", { className: "image", width, height, role: "img" });
  canvas.setAttribute("aria-label", label);
  const image = canvas.getContext("2d", { willReadFrequently: true }).createImageData(width, height);
  const size = width * height;
  for (let i = 0; i < size; i++) {
    for (let c = 0; c < 3; c++) {
      const value = x[(channels === 3 ? c : 0) * size + i];
      image.data[4 * i + c] = Math.round((255 * (value - low)) / (high - low || 1));
    }
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  const scale = side / Math.max(width, height);
  canvas.style.width = `${Math.round(width * scale)}px`;
  canvas.style.height = `${Math.round(height * scale)}px`;
  return canvas;
}

const figure = (inside, caption, wide = false) =>
  element("figure", { className: wide ? "wide" : "" }, inside, element("figcaption", {}, caption));

/* The names of the entries of x, and a table of them with one column for each of `series`. */
function tabled(world, series, rows) {
  const names = world.columns || rows.map((i) => `x[${i}]`);
  const head = element("tr", {}, element("th", {}, ""), ...series.map(({ name }) => element("th", { scope: "col" }, name)));
  const body = rows.map((i, at) => element(
    "tr", {},
    element("th", { scope: "row" }, world.columns ? names[i] : names[at]),
    ...series.map(({ x, cells, observed }) => element(
      "td", cells ? {} : { className: "number" },
      cells ? cells[i] : observed && !observed[i] ? "missing" : short(x[i]),
    )),
  ));
  return element("div", { className: "scroll", tabIndex: 0 }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...body)));
}

/* The range of values on a chart: that of all series, with zero in it. */
function extent(series) {
  let low = 0, high = 0;
  for (const { x } of series) {
    for (const value of x) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return [low, high > low ? high : low + 1];
}

/* A chart of series over the entries of x: bars of the first if it holds counts, else lines. */
function chart(world, series, label, [low, high] = extent(series), width = 800) {
  const canvas = element("canvas", { className: "chart", role: "img", width, height: 280 });
  canvas.setAttribute("aria-label", label);
  const context = canvas.getContext("2d"), { height } = canvas;
  const channels = world.kind === "sequence" ? world.shape[world.shape.length - 1] : 1;
  const length = series[0].x.length / channels;
  const at = (i) => 50 + ((i + 0.5) / length) * (width - 60);
  const up = (v) => 10 + (1 - (v - low) / (high - low)) * (height - 30);
  const colors = [styled("--prior"), styled("--link")];
  series.forEach(({ x, bars }, s) => {
    for (let c = 0; c < channels; c++) {
      context.strokeStyle = context.fillStyle = series.length > 1 ? (s ? colors[1] : styled("--quiet")) : colors[1];
      context.lineWidth = 2;
      context.globalAlpha = channels > 1 ? 1 - (0.6 * c) / channels : 1;
      if (bars) {
        const wide = Math.max(1, ((width - 60) / length) * 0.7);
        for (let i = 0; i < length; i++) context.fillRect(at(i) - wide / 2, up(Math.max(x[i], 0)), wide, up(0) - up(x[i]));
        continue;
      }
      context.beginPath();
      for (let i = 0; i < length; i++) context.lineTo(at(i), up(x[i * channels + c]));
      context.stroke();
    }
  });
  context.globalAlpha = 1;
  context.fillStyle = styled("--quiet");
  context.font = "20px system-ui, sans-serif";
  context.fillText(short(high, 2), 2, 24);
  context.fillText(short(low, 2), 2, height - 18);
  return canvas;
}

const LARGEST = 10;

/* Show some of: a datum, its reconstruction, a decoded point; each {name, x, cells, observed}. */
function show(holder, world, series, side = 150) {
  const said = series.map(({ name }) => name).join(" and ");
  let shown;
  if (world.kind === "image") shown = series.map(({ name, x }) => figure(picture(world, x, name, side), name));
  else if (world.kind === "table") shown = [tabled(world, series, series[0].x.map((_, i) => i))];
  else {
    const counts = world.kind === "counts";
    const drawn = series.map((each, i) => ({ ...each, bars: counts && i === 0 }));
    const [first, second] = series.map(({ name }) => name);
    const words = second ? `${first} gray, ${second} blue` : first;
    shown = [figure(chart(world, drawn, said), words, true)];
    if (counts) {
      const order = series[0].x.map((_, i) => i).sort((a, b) => series[0].x[b] - series[0].x[a]);
      shown.push(figure(tabled(world, series, order.slice(0, LARGEST)), `the ${Math.min(LARGEST, order.length)} largest`, true));
    }
  }
  holder.replaceChildren(...shown);
}

/* Show the steps of an interpolation, one after another. */
function showSteps(holder, world, steps, side = 76) {
  const named = steps.map((step, i) => ({ ...step, name: `${i + 1}` }));
  if (world.kind === "table") holder.replaceChildren(tabled(world, named, steps[0].x.map((_, i) => i)));
  else if (world.kind === "image") {
    holder.replaceChildren(...named.map(({ x, name }) => picture(world, x, `step ${name} of ${steps.length}`, side)));
  } else {
    const range = extent(steps);
    holder.replaceChildren(...named.map((step) => {
      const drawn = figure(chart(world, [{ ...step, bars: world.kind === "counts" }], `step ${step.name}`, range, 300), step.name);
      drawn.style.width = "11rem";
      return drawn;
    }));
  }
}
