// What the page of a trace writes into files: its numbers, and its grids as they stand there.

/** The arrays as they are now, and the step; what JSON cannot hold as the strings that name it. */
function numbers({ trace, step }) {
  const nest = (values, shape) => {
    if (shape.length === 1) return values.map(encode);
    const each = count(shape.slice(1));
    return [...Array(shape[0]).keys()].map((at) => nest(values.slice(at * each, (at + 1) * each), shape.slice(1)));
  };
  const { input, output, weight } = trace.shapes;
  const terms = step.terms.map((t) => ({
    output: t.output,
    input: t.input,
    weight: trace.weighted ? t.weight : null,
    padding: t.padding,
    left: encode(t.left),
    right: t.right === null ? null : encode(t.right),
    product: encode(t.product),
    partial: encode(t.partial),
    winner: t.winner,
  }));
  return {
    operator: trace.operator,
    settings: trace.settings,
    input: nest(trace.values.input, input),
    weight: weight && nest(trace.values.weight, weight),
    bias: trace.values.bias && trace.values.bias.map(encode),
    g: nest(trace.values.g, output),
    output: nest(trace.sum("output"), output),
    grad_input: nest(trace.sum("input"), input),
    grad_weight: weight && nest(trace.sum("weight"), weight),
    step: { by: step.by, index: step.index, value: encode(step.value), terms, sentence: describe(trace, step) },
  };
}

const SVG = "http://www.w3.org/2000/svg";
const EDGE = 12; // pixels around the grids

/** The grids of a stage, drawn again as an SVG where they stand, with the words below. */
function picture(stage, style, words) {
  const ink = style.color;
  const corner = stage.getBoundingClientRect();
  const [width, height] = [Math.max(640, corner.width + 2 * EDGE), corner.height + 2 * EDGE];
  const place = (part) => {
    const r = part.getBoundingClientRect();
    return { x: r.left - corner.left + EDGE, y: r.top - corner.top + EDGE, w: r.width, h: r.height };
  };
  const drawn = [];
  for (const part of stage.querySelectorAll("td, caption, .sign, td span, td small")) {
    if (!isSeen(part)) continue;
    const [at, css] = [place(part), getComputedStyle(part)];
    if (part.tagName === "TD") drawn.push(...frames(at, css, part.classList, ink, style.getPropertyValue("--read")));
    else drawn.push(word(at, css, part.textContent, part.tagName === "CAPTION"));
    if (part.matches(".winner span")) drawn.push(box(at, 1, `rx="10" fill="none" stroke="${ink}" stroke-width="1.5"`));
  }
  const lines = words.flatMap((text) => text.match(/.{1,90}(\s|$)/g) ?? []);
  const told = lines.map(
    (text, line) => `<text x="${EDGE}" y="${height + 8 + 20 * line}">${escaped(text.trim())}</text>`,
  );
  const hatch =
    `<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">` +
    `<path d="M0 0V6" stroke="${ink}" stroke-opacity=".3" stroke-width="2"/></pattern>`;
  const size = `width="${width}" height="${height + 20 * told.length + 8}"`;
  return (
    `<svg xmlns="${SVG}" ${size} font-family="sans-serif" font-size="13" fill="${ink}">` +
    `<title>${escaped(words.at(-1))}</title><defs>${hatch}</defs>` +
    `<rect width="100%" height="100%" fill="${style.backgroundColor}"/>${drawn.join("")}${told.join("")}</svg>`
  );
}

/** Whether the middle of a part lies within the box that its grid scrolls in. */
function isSeen(part) {
  const frame = part.closest(".scroll")?.getBoundingClientRect();
  const { left, right, top, bottom } = part.getBoundingClientRect();
  const [x, y] = [(left + right) / 2, (top + bottom) / 2];
  return !frame || (x >= frame.left && x <= frame.right && y >= frame.top && y <= frame.bottom);
}

/** A cell: its ground, the hatching of padding, a solid frame where it is read, a double one where it is made. */
function frames(at, css, classes, ink, read) {
  const hatched = classes.contains("outside");
  const ground = !hatched ? css.backgroundColor : classes.contains("read") ? read : "none";
  const drawn = [box(at, 0, `fill="${ground}" stroke="${css.borderLeftColor}"`)];
  if (hatched) drawn.push(box(at, 0, 'fill="url(#hatch)"'));
  if (classes.contains("read") || classes.contains("made")) {
    drawn.push(box(at, 1.5, `fill="none" stroke="${ink}" stroke-width="2"`));
  }
  if (classes.contains("made")) drawn.push(box(at, 5, `fill="none" stroke="${ink}"`));
  return drawn;
}

function box({ x, y, w, h }, inset, how) {
  const [left, top, width, height] = [x + inset, y + inset, w - 2 * inset, h - 2 * inset].map((n) => n.toFixed(1));
  return `<rect x="${left}" y="${top}" width="${width}" height="${height}" ${how}/>`;
}

function word({ x, y, w, h }, css, text, fromLeft) {
  const [left, anchor] = fromLeft ? [x, "start"] : [x + w / 2, "middle"];
  const font = `font-size="${css.fontSize}" font-weight="${css.fontWeight}" fill="${css.color}"`;
  const where = `x="${left.toFixed(1)}" y="${(y + h / 2).toFixed(1)}" dy=".35em" text-anchor="${anchor}"`;
  return `<text ${where} ${font}>${escaped(text)}</text>`;
}

const escaped = (text) => text.replace(/[&<>]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[sign]);
