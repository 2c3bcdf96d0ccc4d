// The fields of the options: what there is, their defaults as placeholders, and what is set in them.

import { byId, element } from "./elements.js";

const GROUPS = [
  ["Search", [
    ["beam_size", "Beam size", { step: 1, min: 1 }], ["num_hypotheses", "Hypotheses", { step: 1, min: 1 }],
    ["length_penalty", "Length penalty"], ["coverage_penalty", "Coverage penalty", { needs: "has_scorer" }],
  ]],
  ["Length", [
    ["max_new_tokens", "Most new tokens", { step: 1, min: 1 }],
    ["min_new_tokens", "Fewest new tokens", { step: 1, min: 0 }],
  ]],
  ["Repetition", [
    ["repetition_penalty", "Repetition penalty"], ["no_repeat_ngram_size", "No n-gram twice of", { step: 1, min: 0 }],
  ]],
  ["Draw tokens (beam size 1)", [
    ["temperature", "Temperature"], ["top_k", "Top k", { step: 1, min: 0 }], ["top_p", "Top p"],
    ["seed", "Seed", { kind: "digits" }],
  ]],
  ["Text", [
    ["source_language", "Source language", { kind: "language" }],
    ["target_language", "Target language", { kind: "language" }],
    ["prefix", "The answer begins with", { kind: "text" }], ["truncate", "Cut off a source that is too long", { kind: "tick" }],
  ]],
];
// What the server does where the model's description says nothing.
const USUAL = { num_hypotheses: 1, coverage_penalty: 0, seed: "random", temperature: "no draws", top_k: "all", top_p: "all" };

/** Make the fields for a model; what was set stays where the model has the field. */
export function showOptions(model) {
  const before = new Map([...fields()].map((field) => [field.name, field.type === "checkbox" ? field.checked : field.value]));
  const sets = GROUPS.map(([title, entries]) => {
    const made = entries.filter(([, , form]) => fits(model, form)).map((entry) => field(model, ...entry));
    return element("fieldset", {}, element("legend", {}, title), ...made);
  });
  byId("option-fields").replaceChildren(...sets);
  for (const each of fields()) {
    const value = before.get(each.name);
    if (value === undefined) continue;
    if (each.type === "checkbox") each.checked = value;
    else if (each.tagName !== "SELECT" || [...each.options].some((option) => option.value === value)) each.value = value;
  }
  countOptions();
}

function fits(model, form = {}) {
  if (form.kind === "language") return model.languages.length > 0;
  if (form.kind === "text") return model.has_tokenizer;
  return !form.needs || model[form.needs];
}

function field(model, name, label, form = {}) {
  const shared = { name, id: `option-${name}` };
  const usual = model.defaults[name] ?? USUAL[name];
  const placeholder = typeof usual === "number" ? String(Math.round(usual * 1e6) / 1e6) : usual ?? "";
  if (form.kind === "tick") {
    return element("label", { class: "field wide tick" }, element("input", { ...shared, type: "checkbox" }), label);
  }
  if (form.kind === "language") {
    const first = element("option", { value: "" }, placeholder ? `default: ${placeholder}` : "default");
    const codes = model.languages.map((code) => element("option", { value: code }, code));
    return element("label", { class: "field" }, label, element("select", shared, first, ...codes));
  }
  if (form.kind === "text") {
    return element("label", { class: "field wide" }, label, element("input", { ...shared, dir: "auto", placeholder: "nothing" }));
  }
  const kind = form.kind === "digits"
    ? { inputmode: "numeric", pattern: "[0-9]*" }
    : { type: "number", step: form.step ?? "any", min: form.min, inputmode: form.step ? "numeric" : "decimal" };
  return element("label", { class: "field" }, label, element("input", { ...shared, ...kind, placeholder, autocomplete: "off" }));
}

function fields() {
  return byId("option-fields").querySelectorAll("input, select");
}

/** Empty all. */
export function resetOptions() {
  for (const each of fields()) {
    if (each.type === "checkbox") each.checked = false;
    else each.value = "";
  }
  markField(null);
  countOptions();
}

/** Say beside the closed options how many are set. */
export function countOptions() {
  const count = [...fields()].filter((each) => (each.type === "checkbox" ? each.checked : each.value !== "")).length;
  byId("options-set").textContent = count ? `(${count} set)` : "";
}

/**
 * What is set, by the server's names.
 * @throws {RangeError} with words, where a field holds no number; the field is marked.
 */
export function chosenOptions() {
  const chosen = {};
  for (const each of fields()) {
    if (each.validity.badInput || each.validity.patternMismatch) {
      markField(each.name);
      throw new RangeError(`${each.labels[0].textContent}: not a number`);
    }
    if (each.type === "checkbox") {
      if (each.checked) chosen[each.name] = true;
    } else if (each.value !== "") {
      // A seed has up to 64 bits, which a number of JavaScript has not; it travels as its digits.
      chosen[each.name] = each.type === "number" ? Number(each.value) : each.value;
    }
  }
  return chosen;
}

/** Mark the field of an option as wrong, open it to view, and take the mark from all others. */
export function markField(name) {
  for (const each of fields()) {
    const wrong = each.name === name;
    each.toggleAttribute("aria-invalid", false);
    if (!wrong) continue;
    each.setAttribute("aria-invalid", "true");
    byId("options").open = true;
  }
}
