// The list of triples in the browser: page.py puts it before page.js, which shows it.
//
// Products are summed by output, input or weight in the order in which Python sums them, so that after an edit the page
// shows what tinyconv would compute. Where a window lands is not worked out again: pixels[axis][o][k] is geometry.py's
// line i = o*stride + k*dilation - padding, carried as a table.

// ---------------------------------------------------------------------------------------------------------------------
// Numbers, as Python writes them

/** Python's %.{digits}g: JavaScript rounds a tie away from zero, Python to the even digit. */
function general(value, digits) {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "nan" : value > 0 ? "inf" : "-inf";
  let [mantissa, exponent] = Math.abs(value)
    .toExponential(digits - 1)
    .split("e");
  const [exact, power] = Math.abs(value).toExponential(60).split("e");
  const cut = digits === 1 ? 1 : digits + 1; // with the point
  if (/^\.?50*$/.test(exact.slice(cut)) && exact[cut - 1] % 2 === 0)
    [mantissa, exponent] = [exact.slice(0, cut), power];
  exponent = Number(exponent);
  const short = (text) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);
  const plain = exponent >= -4 && exponent < digits;
  const text = plain
    ? short(Number(`${mantissa}e${exponent}`).toFixed(digits - 1 - exponent))
    : `${short(mantissa)}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
  return (value < 0 || Object.is(value, -0) ? "-" : "") + text;
}

/** text.number: four significant digits; whole numbers below ten million in full. */
function number(value) {
  const whole = Number.isInteger(value) && Math.abs(value) < 1e7;
  return whole ? (Object.is(value, -0) ? "-0" : String(value)) : general(value, 4);
}

/** page.short: what stands in a cell. */
function short(value) {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  const digits = size < 1e5 ? Math.max(3, String(Math.trunc(size)).length) : 3;
  return general(value, digits).replaceAll("-", "−");
}

const signed = (value) => (value < 0 ? `(${number(value)})` : number(value));
const element = (name, index) => `${name}[${index.join(",")}]`;
const decode = (value) => (typeof value === "string" ? Number(value) : value);
const encode = (value) => (Number.isFinite(value) ? value : String(value));

/** What somebody typed, or null. */
function parse(text) {
  const plain = text.trim().toLowerCase().replace("−", "-").replace(",", ".").replace("∞", "infinity");
  const named = plain.replace(/^([-+]?)inf$/, "$1infinity").replace("infinity", "Infinity");
  if (named === "nan") return NaN;
  return named === "" || Number.isNaN(Number(named)) ? null : Number(named);
}

// ---------------------------------------------------------------------------------------------------------------------
// The list of triples

/** All indices of a shape, row-major. */
function* indices(shape) {
  if (shape.length === 0) yield [];
  else
    for (const first of indices(shape.slice(0, -1)))
      for (let last = 0; last < shape.at(-1); last++) yield [...first, last];
}

const flat = (index, shape) => index.reduce((sum, at, axis) => sum * shape[axis] + at, 0);
const count = (shape) => shape.reduce((a, b) => a * b, 1);
const unflat = (position, shape) =>
  shape.map((size, axis) => Math.floor(position / count(shape.slice(axis + 1))) % size);

class Trace {
  constructor(data) {
    Object.assign(this, data);
    this.weighted = this.shapes.weight !== null;
    this.transposed = this.kind === "transposed";
    this.values = {};
    for (const [name, values] of Object.entries(data.arrays)) this.values[name] = values && values.map(decode);
    this.triples = [...this.list()];
    this.parts = {};
    for (const by of this.weighted ? ["output", "input", "weight"] : ["output", "input"]) {
      const part = (this.parts[by] = new Map());
      for (const t of this.triples) (part.get(t.key[by]) ?? part.set(t.key[by], []).get(t.key[by])).push(t);
    }
    // The order of the loops: a pixel gathers by channel and tap, in a pooling or unfolding by output.
    const large = this.transposed ? "output" : "input";
    const rank = this.weighted ? (t) => flat(t.weight, this.kernel) : (t) => flat(t.unit, this.small);
    for (const part of this.parts[large].values()) part.sort((a, b) => rank(a) - rank(b));
    this.sums = {};
  }

  /** Every product: triples.py's list, in the order of the outputs of a convolution. */
  *list() {
    const { small, large, kernel, pixels, groups } = this;
    const taps = kernel.slice(2);
    for (const unit of indices(small)) {
      const [n, co, ...o] = unit;
      const first = Math.floor(co / (small[1] / groups)) * kernel[1];
      for (const [ci, ...k] of indices(kernel.slice(1))) {
        const i = o.map((at, axis) => pixels[axis][at][k[axis]]);
        const c = first + ci;
        const inside = i.every((at, axis) => at >= 0 && at < large[2 + axis]);
        const pixel = [n, c, ...i];
        const columns = [n, c * count(taps) + flat(k, taps), flat(o, small.slice(2))];
        const output = this.transposed ? pixel : this.kind === "unfold" ? columns : unit;
        const input = this.transposed ? unit : pixel;
        const weight = [co, ci, ...k];
        const inOut = [
          flat(output.slice(1), this.shapes.output.slice(1)),
          flat(input.slice(1), this.shapes.input.slice(1)),
        ];
        const key = { output: output.join(), input: input.join(), columns: columns.join() };
        key.weight = this.weighted ? weight.join() : null;
        key.matrix = inside ? [n, ...inOut].join() : null;
        yield { unit, output, input, weight, inside, padding: !inside, key };
      }
    }
  }

  read(name, index) {
    const shape = this.shapes[name === "g" ? "output" : name];
    return index.every((at, axis) => at >= 0 && at < shape[axis]) ? this.values[name][flat(index, shape)] : 0;
  }

  /** The number that an array of the operator's dtype keeps of a sum. */
  round(value) {
    if (this.dtype === "float16") return Math.f16round ? Math.f16round(value) : value;
    return this.dtype === "float32" ? Math.fround(value) : value;
  }

  /** One element and the terms that make it: the _step of kinds.py. */
  step(by, index) {
    const list = this.parts[by].get(index.join()) ?? [];
    if (by === "output" && this.kind === "max") return this.maximum(index, list);
    const share = this.kind === "average" && by === "input";
    const operation = this.weighted || this.kind === "max" ? "product" : share ? "share" : "copy";
    let sum = 0;
    const terms = list.map((t) => {
      const left = by === "input" ? this.read("g", t.output) : this.read("input", t.input);
      const [right, winner] = this.partner(by, t);
      let product = right === null ? left : share ? left / right : left * right;
      if (this.kind === "max") product = winner ? left : 0; // an infinite g of another's window is not 0 times it
      sum += product;
      return { ...t, left, right, product, partial: sum, winner };
    });
    const made = { by, index, operation, terms, divisor: null, bias: null, value: this.round(sum) };
    if (by === "output" && this.kind === "average") {
      made.divisor = this.values.divisor[flat(index.slice(2), this.small.slice(2))];
      made.value = this.round(sum / made.divisor);
    } else if (by === "output" && this.values.bias) {
      made.bias = this.values.bias[index[1]];
      made.value = this.round(made.value + made.bias);
    }
    return made;
  }

  /** The right factor of a term, and whether a max pooling took it. */
  partner(by, t) {
    if (this.weighted) return [by === "weight" ? this.read("g", t.output) : this.read("weight", t.weight), false];
    if (by === "output" || this.kind === "unfold") return [null, false];
    if (this.kind === "average") return [this.values.divisor[flat(t.unit.slice(2), this.small.slice(2))], false];
    const won = this.step("output", t.output).terms.some((c) => c.winner && c.key.input === t.key.input);
    return [Number(won), won];
  }

  /** The first maximum wins, or the last NaN; padding is minus infinity. */
  maximum(index, list) {
    let [best, winner] = [-Infinity, null];
    const terms = list.map((t, place) => {
      const left = t.inside ? this.read("input", t.input) : -Infinity;
      if (t.inside && (winner === null || left > best || Number.isNaN(left))) [best, winner] = [left, place];
      return { ...t, left, right: null, product: left, partial: best, winner: false };
    });
    if (winner !== null) terms[winner].winner = true;
    return { by: "output", index, operation: "maximum", terms, divisor: null, bias: null, value: best };
  }

  /** All steps by one side: the output, or a gradient. */
  sum(by) {
    return (this.sums[by] ??= [...indices(this.shapes[by])].map((index) => this.step(by, index).value));
  }

  /** C with output = C input, or the columns of im2col, as a map from keys to numbers. */
  table(name) {
    return (this.sums[name] ??= this[name]());
  }

  matrix() {
    const made = new Map();
    for (const index of indices(this.shapes.output)) {
      const step = this.step("output", index);
      const one = (t) =>
        step.operation === "maximum" ? Number(t.winner) : step.divisor === null ? 1 : 1 / step.divisor;
      for (const t of step.terms) if (t.inside) made.set(t.key.matrix, t.right ?? one(t));
    }
    return made;
  }

  columns() {
    const made = new Map();
    for (const t of this.triples) {
      const input = this.read("input", t.input);
      const outside = this.kind === "max" ? -Infinity : 0;
      if (this.transposed)
        made.set(t.key.columns, (made.get(t.key.columns) ?? 0) + input * this.read("weight", t.weight));
      else made.set(t.key.columns, t.inside ? input : outside);
    }
    return made;
  }

  set(name, index, value) {
    const shape = this.shapes[name === "g" ? "output" : name] ?? [this.values[name].length];
    this.values[name][flat(index, shape)] = this.round(value);
    this.sums = {};
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Words: text.describe and figure.equation again, for numbers that Python has not seen

function describe(trace, step) {
  const terms = step.terms;
  const [subject, value] = [element(step.by, step.index), number(step.value)];
  const source = step.by === "input" ? "output" : "input";
  const where = places(
    trace,
    terms.map((t) => t[source].slice(2)),
    source,
  );
  const outside = terms.filter((t) => t.padding).length;
  let tail = "";
  if (outside && terms.length === 1) tail = ", which lies in the padding and counts as 0";
  else if (outside && step.operation !== "maximum") {
    const one = outside === 1;
    const cropped = `${one ? "is" : "are"} cropped with the padding`;
    const lies = trace.transposed ? cropped : `${one ? "lies" : "lie"} in the padding`;
    tail = `; ${outside} of them ${lies} and ${one ? "counts" : "count"} as 0`;
  }
  if (step.by === "output") return `${subject} = ${value} ${madeOf(step, where)}${tail}.`;
  const plural = terms.length === 1 ? "" : "s";
  if (step.by === "weight") {
    const gradient = `its gradient, the sum of pixel times g, is ${value}`;
    return `${subject} meets ${terms.length} pixel${plural}, ${where}; ${gradient}${tail}.`;
  }
  if (!terms.length) return `${subject} is used by no output, so its gradient is 0.`;
  if (!trace.weighted && step.operation === "product") {
    const won = terms.filter((t) => t.winner).length;
    return `${subject} is in ${terms.length} window${plural} and wins ${won} of them, so its gradient is ${value}.`;
  }
  const how = { product: "the sum of g times weight", share: "the sum of g / divisor", copy: "the sum of g" };
  const gradient = `its gradient, ${how[step.operation]}, is ${value}`;
  return `${subject} is used ${terms.length} time${plural}, by ${where}; ${gradient}${tail}.`;
}

function madeOf(step, where) {
  const many = step.terms.length;
  if (step.operation === "maximum") {
    const winner = step.terms.find((t) => t.winner);
    const won = winner ? `the winner is ${element("input", winner.input)}` : "none of them lies on the image";
    return `is the largest of ${many} pixels, ${where}; ${won}`;
  }
  if (step.divisor !== null) return `is the sum of ${many} pixels, ${where}, divided by ${number(step.divisor)}`;
  if (step.operation === "copy") return `is a copy of ${element("input", step.terms[0].input)}`;
  if (!many) return `is reached by no product${step.bias !== null ? ", and is its bias" : ""}`;
  const bias = step.bias !== null ? ` plus the bias ${number(step.bias)}` : "";
  return `is the sum of ${many} product${many === 1 ? "" : "s"} pixel times weight, ${where}${bias}`;
}

/** rows 1 to 3 and columns 3, 5 and 7 of the input */
function places(trace, positions, of) {
  const names = trace.pixels.length === 1 ? ["positions"] : ["rows", "columns"];
  if (!positions.length || positions[0].length !== names.length) return `elements of the ${of}`;
  const named = names.map((name, axis) => {
    const at = [...new Set(positions.map((position) => position[axis]))].sort((a, b) => a - b);
    return `${at.length > 1 ? name : name.slice(0, -1)} ${series(at)}`;
  });
  return `${named.join(" and ")} of the ${of}`;
}

/** 1 to 3; 3, 5 and 7; 0 to 98 in steps of 2 */
function series(values) {
  const [first, last, step] = [values[0], values.at(-1), values[1] - values[0]];
  if (values.length > 2 && values.every((at, place) => at === first + place * step)) {
    return `${first} to ${last}${step > 1 ? ` in steps of ${step}` : ""}`;
  }
  if (values.length > 8) return `between ${first} and ${last}`;
  return values.length > 1 ? `${values.slice(0, -1).join(", ")} and ${last}` : String(first);
}

const MOST_TERMS = 18; // written out in the equation

function equation(step) {
  let terms = step.terms.map((t) => {
    if (step.operation === "maximum") return number(t.left);
    const sign = step.operation === "product" ? "×" : "/";
    return t.right === null ? signed(t.left) : signed(t.left) + sign + signed(t.right);
  });
  if (terms.length > MOST_TERMS) {
    terms = [...terms.slice(0, MOST_TERMS - 1), `… (${terms.length - MOST_TERMS} more) …`, terms.at(-1)];
  }
  const subject = (step.by === "output" ? "" : "gradient of ") + element(step.by, step.index);
  let right = terms.join(" + ") || "0";
  if (step.operation === "maximum") right = `max(${terms.join(", ")})`;
  else if (step.operation === "copy" && step.by === "output" && step.divisor === null)
    right = element("input", step.terms[0].input);
  else if (step.divisor !== null) right = `(${right}) / ${number(step.divisor)}`;
  if (step.bias !== null) right += ` + bias ${signed(step.bias)}`;
  return `${subject} = ${right} = ${number(step.value)}`;
}
