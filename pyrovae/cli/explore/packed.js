"use strict";
/* The source of a page that is a file: all that it shows is in it, and the decoder runs here. */

/* Rows of numbers, written as bytes or 32-bit floats. NaN is null, as in JSON. */
class Rows {
  constructor(said, numbers) {
    Object.assign(this, said, { numbers });
  }

  static async read(said) {
    const kind = { u1: Uint8Array, f4: Float32Array }[said.type];
    return new Rows(said, await decoding.unpacked(said.numbers, kind));
  }

  get length() { return this.numbers.length / this.width; }

  row(i) {
    const from = this.numbers.subarray(i * this.width, (i + 1) * this.width);
    return Array.from(from, (value) => (Number.isNaN(value) ? null : value * this.by + this.plus));
  }
}

/* A mixture of diagonal normals: log-weights [C], means and standard deviations [C, D]. */
class Normals {
  constructor(logits, loc, scale) {
    const norm = logSum(logits), width = loc.length / logits.length;
    Object.assign(this, { loc, scale, width });
    this.constant = logits.map((logit, c) => {
      let log = logit - norm - 0.5 * width * Math.log(2 * Math.PI);
      for (let d = 0; d < width; d++) log -= Math.log(scale[c * width + d]);
      return log;
    });
  }

  log(z) {
    return logSum(this.constant.map((constant, c) => {
      let far = 0;
      for (let d = 0; d < this.width; d++) {
        far += ((z[d] - this.loc[c * this.width + d]) / this.scale[c * this.width + d]) ** 2;
      }
      return constant - far / 2;
    }));
  }
}

function logSum(values) {
  const most = values.reduce((a, b) => Math.max(a, b), -Infinity);
  return most + Math.log(values.reduce((sum, value) => sum + Math.exp(value - most), 0));
}

/* The points on a great circle from one to another; their norms change in proportion. */
function circle(start, end, shares) {
  const norm = (z) => Math.hypot(...z), [r, s] = [norm(start), norm(end)];
  if (!r || !s) throw new Error("A point is zero, and has no direction to turn from.");
  const a = start.map((v) => v / r), b = end.map((v) => v / s);
  const angle = 2 * Math.atan2(norm(a.map((v, i) => v - b[i])), norm(a.map((v, i) => v + b[i])));
  if (Math.PI - angle < 1e-6) throw new Error("The points are opposite: many great circles join them.");
  return shares.map((t) => {
    const weights = angle < 1e-6 ? [1 - t, t]
      : [Math.sin((1 - t) * angle) / Math.sin(angle), Math.sin(t * angle) / Math.sin(angle)];
    return a.map((v, i) => (r + (s - r) * t) * (weights[0] * v + weights[1] * b[i]));
  });
}

const rounded = (z) => z.map((value) => Math.round(value * 1e4) / 1e4);

/* A number with four digits, as "%.4g" writes it. */
function general(value) {
  if (value === 0 || !Number.isFinite(value)) return String(value);
  const [digits, power] = value.toExponential(3).split("e"), plain = (text) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);
  if (power >= -4 && power < 4) return plain(value.toFixed(3 - power));
  return `${plain(digits)}e${power[0]}${power.slice(1).padStart(2, "0")}`;
}

class Packed {
  constructor(text) {
    this.text = text;
  }

  async world() {
    const bytes = await decoding.unpacked(this.text, Uint8Array);
    const said = JSON.parse(new TextDecoder().decode(bytes)), { world } = said;
    this.said = said;
    for (const name of ["x", "z", "scale", "context"]) this[name] = said[name] && await Rows.read(said[name]);
    if (said.decoded) await this.read(said.decoded);
    this.decoder = world.decoder && await decoding.Decoder.read(world.decoder);
    await this.densities(said.density);
    world.map.z = Array.from({ length: this.z.length }, (_, i) => rounded(this.z.row(i)));
    this.means = world.map.z;
    return world;
  }

  /* Read what was decoded before: the data, and the plane if there is one. */
  async read({ x, plane }) {
    this.known = await Rows.read(x);
    this.plane = plane && await Rows.read(plane.x);
  }

  async densities({ prior, aggregate }) {
    const numbers = (text) => decoding.unpacked(text, Float32Array);
    this.prior = prior && new Normals(prior.logits, await numbers(prior.loc), await numbers(prior.scale));
    const equal = Array(this.z.length).fill(0);
    this.aggregate = aggregate && new Normals(equal, this.z.numbers, this.scale.numbers);
  }

  async datum(i) {
    const found = this.known ? this.nearest(this.means[i], i) : this.exact(this.z.row(i), i);
    return {
      ...this.said.data[i],
      x: this.x.row(i),
      reconstruction: found.x,
      "reconstruction cells": found.cells,
      of: this.said.of,
      z: this.means[i],
      scale: this.scale.row(i),
    };
  }

  /* What a point decodes to with the context of datum `at`. */
  exact(z, at) {
    const context = this.context ? this.context.row(at) : [];
    const x = Array.from(this.decoder.mean([...z, ...context])), { of, columns } = this.said;
    return { x, of, cells: columns && this.words(x, columns) };
  }

  words(x, columns) {
    return columns.map(({ levels, by, plus }, i) => (levels ? levels[Math.round(x[i])] : general(by * x[i] + plus)));
  }

  async decode(z, at = 0) {
    const found = z.map((point) => (this.decoder ? this.exact(point, at) : this.nearest(point, at)));
    const cells = found.map((each) => each.cells);
    return {
      x: found.map(({ x }) => x),
      of: found[0].of,
      cells: cells.every(Boolean) ? cells : null,
      python: this.lines("decode", z, at),
    };
  }

  /* What was decoded before: at the posterior mean of a datum, or at the nearest point of the plane.
     Data with the same mean differ by their contexts, so datum `at` comes first. */
  nearest(point, at) {
    const { of, decoded: { plane, cells } } = this.said;
    const same = (z) => z.every((value, k) => value === point[k]);
    const datum = same(this.means[at]) ? at : this.means.findIndex(same);
    if (datum >= 0) return { x: this.known.row(datum), of, cells: cells && cells[datum] };
    if (!plane) throw new Error("The decoder is not in this page: it shows what the data decode to, and no other points.");
    const places = plane.axes.map((axis, k) => {
      const far = plane.levels[k].map((level) => Math.abs(level - point[axis]));
      return far.indexOf(Math.min(...far));
    });
    const cell = places.reduce((whole, place, k) => whole * plane.levels[k].length + place, 0);
    const where = places.map((place, k) => `${plane.names[k]} = ${short(plane.levels[k][place], 2)}`);
    return {
      x: this.plane.row(cell),
      of: `${of} at ${where.join(", ")}, the other latents at their means`,
      cells: plane.cells && plane.cells[cell],
    };
  }

  async path(start, end, n = 9, rows = null) {
    const shares = Array.from({ length: n }, (_, k) => k / (n - 1));
    const z = shares.map((t) => start.map((v, i) => v + (end[i] - v) * t));
    for (const [first, size] of this.said.spheres) {
      const part = (point) => point.slice(first, first + size);
      circle(part(start), part(end), shares).forEach((point, k) => z[k].splice(first, size, ...point));
    }
    const { between } = this.said.python;
    const python = between && rows
      ? between.replaceAll("@a@", rows[0]).replaceAll("@b@", rows[1]).replaceAll("@n@", n) : null;
    return { z: z.map(rounded), python };
  }

  async density(z, at = 0) {
    const { least, sentences, missing } = this.said.density;
    const prior = this.prior ? this.prior.log(z) : null;
    const aggregate = this.aggregate ? this.aggregate.log(z) : null;
    let hole = null;
    if (prior !== null && aggregate !== null) {
      if (aggregate - prior < least) [hole] = sentences;
      else if (prior - aggregate < least) [, hole] = sentences;
    }
    return { prior, aggregate, hole, missing, python: this.lines("density", [z], at) };
  }

  /* The lines of Python for points, with a number as Python writes it. */
  lines(of, z, at) {
    const number = (v) => (Number.isInteger(v) ? v.toFixed(1) : String(Math.round(v * 1e6) / 1e6));
    const rows = z.map((row) => `[${row.map(number).join(", ")}]`).join(",\n    ");
    return this.said.python[of].replace("@rows@", () => rows).replaceAll("@a@", at);
  }
}
