"use strict";
/* The forward pass of a decoder that is written as data: the layers of forward.py, for one datum.

   A value is {shape, at}: its axes, and its numbers in row-major order as 64-bit floats. Weights
   are 32-bit floats. `Decoder.read(data)` unpacks the weights, `decoder.mean(z)` is E[x | z]. */
const decoding = (() => {
class Decoder {
  constructor(data, numbers) {
    this.inputs = data.inputs;
    this.layers = withWeights(data.layers, numbers);
  }

  static async read(data) {
    return new Decoder(data, await unpacked(data.weights, Float32Array));
  }

  mean(z) {
    if (z.length !== this.inputs) {
      throw new Error(`the decoder takes ${this.inputs} numbers; got ${z.length}`);
    }
    return forward(this.layers, { shape: [z.length], at: Float64Array.from(z) }).at;
  }
}

async function unpacked(text, Numbers) {
  const letters = atob(text);
  const packed = new Uint8Array(letters.length);
  for (let i = 0; i < packed.length; i += 1) packed[i] = letters.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Numbers(await new Response(stream).arrayBuffer());
}

function withWeights(value, numbers) {
  if (Array.isArray(value)) return value.map((item) => withWeights(item, numbers));
  if (value === null || typeof value !== "object") return value;
  if ("at" in value) {
    const size = product(value.shape);
    return { shape: value.shape, at: numbers.subarray(value.at, value.at + size) };
  }
  const entries = Object.entries(value).map(([key, item]) => [key, withWeights(item, numbers)]);
  return Object.fromEntries(entries);
}

function forward(layers, x) {
  for (const layer of layers) {
    const kind = KINDS[layer.kind];
    if (!kind) throw new Error(`a layer has the unknown kind ${layer.kind}`);
    x = kind(x, layer);
  }
  return x;
}

const product = (shape) => shape.reduce((size, side) => size * side, 1);
const vector = (at) => ({ shape: [at.length], at });
const map = (x, f) => ({ shape: x.shape, at: x.at.map(f) });

/* Functions of one number. */

const sigmoid = (h) => (h >= 0 ? 1 / (1 + Math.exp(-h)) : Math.exp(h) / (1 + Math.exp(h)));
const softplus = (h) => Math.max(h, 0) + Math.log1p(Math.exp(-Math.abs(h)));
const clamp = (h, low, high) => Math.min(Math.max(h, low), high);
const positive = (h) => softplus(h) + 1e-5;

function erf(h) {
  if (Math.abs(h) > 6) return Math.sign(h);
  let term = h;
  let sum = h;
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n += 1) {
    term *= (2 * h * h) / (2 * n + 1);
    sum += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-h * h) * sum;
}

function gelu(h, { approximate }) {
  const cubic = Math.sqrt(2 / Math.PI) * (h + 0.044715 * h ** 3);
  const share = approximate === "tanh" ? Math.tanh(cubic) : erf(h / Math.SQRT2);
  return 0.5 * h * (1 + share);
}

function selu(h) {
  const [scale, alpha] = [1.0507009873554805, 1.6732632423543772];
  return scale * (h > 0 ? h : alpha * Math.expm1(h));
}

/* coth(t) - 1 / t, whose terms cancel near 0: there the first terms of its series. */
function langevin(t) {
  if (Math.abs(t) > 0.25) return 1 / Math.tanh(t) - 1 / t;
  const s = t * t;
  return t * (1 / 3 - s / 45 + (2 * s ** 2) / 945 - s ** 3 / 4725 + (2 * s ** 4) / 93555);
}

const ACTIVATIONS = {
  relu: (h) => Math.max(h, 0),
  leaky_relu: (h, { negative_slope }) => (h > 0 ? h : negative_slope * h),
  elu: (h, { alpha }) => (h > 0 ? h : alpha * Math.expm1(h)),
  celu: (h, { alpha }) => (h > 0 ? h : alpha * Math.expm1(h / alpha)),
  selu,
  gelu,
  silu: (h) => h * sigmoid(h),
  mish: (h) => h * Math.tanh(softplus(h)),
  softplus: (h, { beta, threshold }) => (beta * h > threshold ? h : softplus(beta * h) / beta),
  sigmoid,
  tanh: Math.tanh,
  hardtanh: (h, { min_val, max_val }) => clamp(h, min_val, max_val),
  hardsigmoid: (h) => clamp(h / 6 + 0.5, 0, 1),
  hardswish: (h) => h * clamp(h / 6 + 0.5, 0, 1),
  hardshrink: (h, { lambd }) => (Math.abs(h) > lambd ? h : 0),
  softshrink: (h, { lambd }) => Math.sign(h) * Math.max(Math.abs(h) - lambd, 0),
  softsign: (h) => h / (1 + Math.abs(h)),
  logsigmoid: (h) => -softplus(-h),
  tanhshrink: (h) => h - Math.tanh(h),
};

/* Layers. */

function linear(x, { weight, bias }) {
  const [outputs, inputs] = weight.shape;
  const rows = x.at.length / inputs;
  const at = new Float64Array(rows * outputs);
  for (let row = 0; row < rows; row += 1) {
    for (let o = 0; o < outputs; o += 1) {
      let sum = bias ? bias.at[o] : 0;
      for (let i = 0; i < inputs; i += 1) {
        sum += weight.at[o * inputs + i] * x.at[row * inputs + i];
      }
      at[row * outputs + o] = sum;
    }
  }
  return { shape: [...x.shape.slice(0, -1), outputs], at };
}

/* Call visit(start, step, size) for each line of numbers along an axis, counted from the last. */
function eachLine(shape, axis, visit) {
  const place = shape.length + axis;
  const size = shape[place];
  const step = product(shape.slice(place + 1));
  for (let outer = 0; outer < product(shape.slice(0, place)); outer += 1) {
    for (let inner = 0; inner < step; inner += 1) visit(outer * size * step + inner, step, size);
  }
}

function logSoftmax(x, { axis }) {
  const at = new Float64Array(x.at.length);
  eachLine(x.shape, axis, (start, step, size) => {
    let most = -Infinity;
    for (let i = 0; i < size; i += 1) most = Math.max(most, x.at[start + i * step]);
    let sum = 0;
    for (let i = 0; i < size; i += 1) sum += Math.exp(x.at[start + i * step] - most);
    const norm = most + Math.log(sum);
    for (let i = 0; i < size; i += 1) at[start + i * step] = x.at[start + i * step] - norm;
  });
  return { shape: x.shape, at };
}

const softmax = (x, layer) => map(logSoftmax(x, layer), Math.exp);

function glu(x, { axis }) {
  const place = x.shape.length + axis;
  const shape = x.shape.map((side, i) => (i === place ? side / 2 : side));
  const half = product(shape.slice(place));
  const at = new Float64Array(product(shape));
  for (let i = 0; i < at.length; i += 1) {
    const from = Math.floor(i / half) * 2 * half + (i % half);
    at[i] = x.at[from] * sigmoid(x.at[from + half]);
  }
  return { shape, at };
}

/* Subtract the mean of each run of `size` numbers, and divide by the standard deviation. */
function normalized(x, size, eps) {
  const at = new Float64Array(x.at.length);
  for (let start = 0; start < at.length; start += size) {
    const run = x.at.subarray(start, start + size);
    const mean = run.reduce((sum, h) => sum + h, 0) / size;
    const variance = run.reduce((sum, h) => sum + (h - mean) ** 2, 0) / size;
    const scale = 1 / Math.sqrt(variance + eps);
    for (let i = 0; i < size; i += 1) at[start + i] = (run[i] - mean) * scale;
  }
  return at;
}

function layerNorm(x, { shape, weight, bias, eps }) {
  const size = product(shape);
  const at = normalized(x, size, eps);
  return { shape: x.shape, at: at.map((h, i) => h * weight.at[i % size] + bias.at[i % size]) };
}

function channels(x, { scale, shift }) {
  const size = x.at.length / x.shape[0];
  return map(x, (h, i) => {
    const channel = Math.floor(i / size);
    return h * scale.at[channel] + shift.at[channel];
  });
}

function groupNorm(x, { groups, weight, bias, eps }) {
  const at = normalized(x, x.at.length / groups, eps);
  return channels({ shape: x.shape, at }, { scale: weight, shift: bias });
}

function prelu(x, { slope }) {
  const size = x.at.length / (slope.at.length > 1 ? x.shape[0] : 1);
  return map(x, (h, i) => (h > 0 ? h : slope.at[Math.floor(i / size)] * h));
}

/* For a place k in the kernel, along one axis: pixel n of the strided side is joined to pixel
   n * stride + shift of the other side. Return the shift, and the first and last n that exist. */
function spans(near, far, kernel, stride, padding, dilation) {
  return Array.from({ length: kernel }, (_, k) => {
    const shift = k * dilation - padding;
    const first = Math.max(0, Math.ceil(-shift / stride));
    return [shift, first, Math.min(near - 1, Math.floor((far - 1 - shift) / stride))];
  });
}

/* Convolution and its transpose join the same pixels: one sums at the strided side, its transpose
   at the other one. */
function convolve(x, layer, sides, transposed) {
  const { weight, bias, stride, padding, dilation, groups } = layer;
  const [inputs, ...from] = x.shape;
  const outputs = transposed ? weight.shape[1] * groups : weight.shape[0];
  const [insides, outsides] = [inputs / groups, outputs / groups];
  const [near, far] = transposed ? [from, sides] : [sides, from];
  const places = [0, 1].map((axis) => spans(
    near[axis], far[axis], weight.shape[2 + axis], stride[axis], padding[axis], dilation[axis],
  ));
  const [area, fromArea] = [product(sides), product(from)];
  const kernelArea = places[0].length * places[1].length;
  const at = new Float64Array(outputs * area);
  for (let o = 0; o < outputs; o += 1) {
    const sum = at.subarray(o * area, (o + 1) * area);
    if (bias) sum.fill(bias.at[o]);
    const first = Math.floor(o / outsides) * insides;
    for (let i = first; i < first + insides; i += 1) {
      const map = x.at.subarray(i * fromArea, (i + 1) * fromArea);
      const kernel = (transposed ? i * outsides + (o % outsides) : o * insides + i - first) * kernelArea;
      const weights = weight.at.subarray(kernel, kernel + kernelArea);
      if (transposed) addMap(sum, [sides[1], 1], map, [from[1], 0], weights, places, stride);
      else addMap(sum, [sides[1], 0], map, [from[1], 1], weights, places, stride);
    }
  }
  return { shape: [outputs, ...sides], at };
}

/* Add a map times each weight of a kernel to `sum`. Each of both has its width, and whether it is
   the far side, on which positions are shifted and strided. */
function addMap(sum, [sumWidth, sumFar], map, [width, far], weights, [rows, columns], stride) {
  const [toStep, fromStep] = [sumFar ? stride[1] : 1, far ? stride[1] : 1];
  rows.forEach(([down, top, bottom], k) => {
    columns.forEach(([right, left, end], l) => {
      const weight = weights[k * columns.length + l];
      for (let n = top; n <= bottom; n += 1) {
        const farRow = n * stride[0] + down;
        const to = (sumFar ? farRow : n) * sumWidth + sumFar * right;
        const from = (far ? farRow : n) * width + far * right;
        for (let m = left; m <= end; m += 1) sum[to + m * toStep] += weight * map[from + m * fromStep];
      }
    });
  });
}

function convolution(x, layer) {
  const sides = [0, 1].map((axis) => {
    const reach = layer.dilation[axis] * (layer.weight.shape[2 + axis] - 1) + 1;
    const room = x.shape[1 + axis] + 2 * layer.padding[axis] - reach;
    return Math.floor(room / layer.stride[axis]) + 1;
  });
  return convolve(x, layer, sides, false);
}

function transposed(x, layer) {
  const sides = [0, 1].map((axis) => {
    const reach = layer.dilation[axis] * (layer.weight.shape[2 + axis] - 1) + 1;
    const start = (x.shape[1 + axis] - 1) * layer.stride[axis] - 2 * layer.padding[axis];
    return start + reach + layer.output_padding[axis];
  });
  return convolve(x, layer, sides, true);
}

/* Return an image whose pixel (c, i, j) is number source(c, i, j) of x. */
function picked(x, shape, source) {
  const [number, height, width] = shape;
  const at = new Float64Array(product(shape));
  let place = 0;
  for (let c = 0; c < number; c += 1) {
    for (let i = 0; i < height; i += 1) {
      for (let j = 0; j < width; j += 1) at[place++] = x.at[source(c, i, j)];
    }
  }
  return { shape, at };
}

function repeat(x, { by: [down, right] }) {
  const [number, height, width] = x.shape;
  return picked(x, [number, height * down, width * right], (c, i, j) => {
    return (c * height + Math.floor(i / down)) * width + Math.floor(j / right);
  });
}

function shuffle(x, { by }) {
  const [number, height, width] = x.shape;
  return picked(x, [number / by ** 2, height * by, width * by], (c, i, j) => {
    const channel = c * by ** 2 + (i % by) * by + (j % by);
    return (channel * height + Math.floor(i / by)) * width + Math.floor(j / by);
  });
}

function crop(x, { to }) {
  const [number, height, width] = x.shape;
  return picked(x, [number, ...to], (c, i, j) => (c * height + i) * width + j);
}

function residual(x, { layers }) {
  const added = forward(layers, x);
  return map(x, (h, i) => h + added.at[i]);
}

function columns(x, { branches, place }) {
  const all = branches.flatMap((branch) => [...forward(branch, x).at]);
  return vector(Float64Array.from(place, (column) => all[column]));
}

function beside(x, { layers }) {
  const inner = forward(layers, vector(x.at.subarray(0, -1)));
  return vector(Float64Array.of(...inner.at, x.at.at(-1)));
}

/* The means of likelihoods, from what their networks return. */

const half = (x) => x.at.length / 2;

function beta(x) {
  return vector(x.at.slice(0, half(x)).map((h, i) => {
    const c = positive(x.at[i + half(x)]);
    const [a, b] = [c * sigmoid(h) + 1e-5, c * sigmoid(-h) + 1e-5];
    return a / (a + b);
  }));
}

function means(x, { library, gated, most }) {
  const output = library ? x.at.subarray(0, -1) : x.at;
  const size = gated ? output.length / 2 : output.length;
  let logs = vector(output.slice(0, size));
  if (library) {
    const total = Math.log(Math.max(x.at.at(-1), 1e-8));
    logs = map(logSoftmax(logs, { axis: -1 }), (h) => h + total);
  }
  return map(logs, (h, i) => {
    return Math.exp(Math.min(h, most)) * (gated ? sigmoid(-output[size + i]) : 1);
  });
}

function shares(x) {
  const parts = softmax(vector(x.at.slice(0, -1)), { axis: -1 });
  return map(parts, (share) => share * x.at.at(-1));
}

function levels(x, { levels: number }) {
  const size = x.at.length / number;
  const parts = softmax({ shape: [number, size], at: x.at }, { axis: -2 });
  const at = new Float64Array(size);
  parts.at.forEach((share, i) => { at[i % size] += share * Math.floor(i / size); });
  return vector(at);
}

/* The probabilities that a mixture is above the levels 0, 1, ..., [levels - 1, size]. */
function above(x, { components, levels: number }) {
  const block = x.at.length / 3;
  const size = block / components;
  const parts = softmax({ shape: [components, size], at: x.at.slice(0, block) }, { axis: -2 });
  const middle = (number - 1) / 2;
  const at = new Float64Array((number - 1) * size);
  parts.at.forEach((share, i) => {
    const loc = middle * (1 + x.at[block + i]);
    const scale = middle * positive(x.at[2 * block + i]);
    for (let k = 0; k < number - 1; k += 1) {
      at[k * size + (i % size)] += share * sigmoid((loc - k - 0.5) / scale);
    }
  });
  return { at, size };
}

function logistics(x, layer) {
  const { at, size } = above(x, layer);
  const mean = new Float64Array(size);
  at.forEach((share, i) => {
    mean[i % size] += share;
  });
  return vector(mean);
}

function levelShares(x, layer) {
  const { at, size } = above(x, layer);
  const shares = Array.from({ length: layer.levels * size }, (_, i) => {
    const from = i < size ? 1 : at[i - size];
    return i < at.length ? from - at[i] : from;
  });
  return vector(Float64Array.from(shares));
}

/* The most probable values of likelihoods of finitely many. */

function likeliest(x, { levels: number }) {
  const size = x.at.length / number;
  const best = new Float64Array(size);
  x.at.forEach((logit, i) => {
    if (logit > x.at[best[i % size] * size + (i % size)]) best[i % size] = Math.floor(i / size);
  });
  return vector(best);
}

const KINDS = {
  linear,
  ...Object.fromEntries(
    Object.entries(ACTIVATIONS).map(([name, f]) => [name, (x, layer) => map(x, (h) => f(h, layer))]),
  ),
  prelu,
  glu,
  softmax,
  log_softmax: logSoftmax,
  layer_norm: layerNorm,
  group_norm: groupNorm,
  channels,
  convolution,
  transposed,
  repeat,
  shuffle,
  pick: (x, { places }) => vector(Float64Array.from(places, (place) => x.at[place])),
  reshape: (x, { shape }) => ({ shape, at: x.at }),
  crop,
  add: (x, { values }) => map(x, (h, i) => h + values.at[i]),
  scale: (x, { by, plus }) => map(x, (h) => by * h + plus),
  residual,
  columns,
  beside,
  block: (x, { blocks }) => vector(x.at.slice(0, x.at.length / blocks)),
  tilted: (x) => map(x, (h) => 0.5 + 0.5 * langevin(h / 2)),
  beta,
  means,
  shares,
  levels,
  logistics,
  level_shares: levelShares,
  above: (x) => map(x, (h) => (h > 0 ? 1 : 0)),
  likeliest,
};

return { Decoder, KINDS, unpacked };
})();
