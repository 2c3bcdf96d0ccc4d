// Elements without markup: text goes in as text nodes only, so nothing that a user or a model wrote can become an
// element. The page's policy (trusted-types) makes any other way throw.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An element with attributes and children; text children become text nodes. */
export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** The same in SVG. */
export function drawn(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(name, String(value));
  }
  made.append(...children);
  return made;
}

/** Show text in an element, which is hidden where there is none. */
export function say(id, text) {
  const place = byId(id);
  place.textContent = text;
  place.hidden = !text;
}

/** Fill a list of definitions with pairs of name and figure. */
export function figures(id, pairs) {
  byId(id).replaceChildren(
    ...pairs.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
  );
}

/** Seconds in words. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  return seconds < 10 ? `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms` : `${seconds.toFixed(1)} s`;
}

/** A share in words. */
export function percent(share) {
  const value = share * 100;
  if (value >= 99.95) return "100 %";
  return value >= 10 ? `${value.toFixed(0)} %` : value >= 0.1 ? `${value.toFixed(1)} %` : "< 0.1 %";
}
