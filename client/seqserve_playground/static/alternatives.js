// What else could stand in a token's place: the server takes the most probable tokens behind what comes before, and
// completes each.

import { byId, element, percent } from "./elements.js";
import { post } from "./server_calls.js";
import { pieces, loosePieces } from "./pieces.js";
import { shownTokens } from "./tokens.js";

const COUNT = 5;
// Options that say how tokens are drawn or put in order; alternatives are the most probable ones, whatever was drawn.
const LEFT_OUT = new Set([
  "temperature", "top_k", "top_p", "seed", "num_hypotheses", "prefix", "coverage_penalty", "min_new_tokens",
]);

export class Alternatives {
  /** `onPick(ids, label)` gets the prefix with the chosen token; `onClose(place)` the token that it was about. */
  constructor(onPick, onClose) {
    this.onPick = onPick;
    this.onClose = onClose;
    byId("alternatives-close").addEventListener("click", () => this.close());
  }

  get open() {
    return !byId("alternatives").hidden;
  }

  /**
   * Ask, and show what comes. `question` is that of the answer: source, model and options. `stale` says why there is
   * nothing to ask, where there is not.
   */
  async show(stale, question, hypothesis, place, label) {
    this.aborted?.abort();
    const asking = this.aborted = new AbortController();
    this.place = place;
    byId("alternatives").hidden = false;
    byId("alternatives-title").textContent = `In place of “${label}”`;
    byId("alternatives-list").replaceChildren();
    byId("alternatives-note").textContent = stale || "Asking the server …";
    if (stale) return;
    const before = hypothesis.token_ids.slice(0, place);
    const options = Object.fromEntries(Object.entries(question.options).filter(([name]) => !LEFT_OUT.has(name)));
    Object.assign(options, {
      num_hypotheses: COUNT, return_alternatives: true, return_logprobs: true, return_alignment: undefined,
      prefix: before.length ? before : undefined,
    });
    try {
      const found = await post("/api/generate", { ...question, options }, asking.signal);
      this.fill(found.hypotheses, hypothesis, before);
    } catch (error) {
      if (!asking.signal.aborted) byId("alternatives-note").textContent = error.text ?? String(error);
    }
  }

  fill(found, shown, before) {
    byId("alternatives-note").textContent = "Most probable first, with how the answer goes on. Choose one to decode from there.";
    byId("alternatives-list").replaceChildren(...found.map((each) => element("li", {}, this.button(each, shown, before))));
    byId("alternatives-list").querySelector("button")?.focus();
  }

  button(each, shown, before) {
    const chosen = each.token_ids[before.length];
    const share = element("span", { class: "figure" }, percent(Math.exp(each.token_log_probs[0])));
    if (chosen === undefined) { // the end token, which is in no list of ids
      return element("button", { type: "button", disabled: "" }, share, element("span", { class: "text" }, "(the answer ends here)"));
    }
    const parts = each.text ? pieces(shownTokens(each), each.text) : loosePieces(shownTokens(each));
    const joined = (some) => some.map((part) => part.before + part.text).join("");
    const here = parts[before.length];
    const same = chosen === shown.token_ids[before.length] ? " (as it is)" : "";
    const button = element("button", { type: "button" }, share, element("span", { class: "text", dir: "auto" },
      joined(parts.slice(0, before.length)), here.before, element("b", {}, here.text),
      joined(parts.slice(before.length + 1)), same));
    button.addEventListener("click", () => {
      this.hide();
      this.onPick([...before, chosen], here.text);
    });
    return button;
  }

  hide() {
    this.aborted?.abort();
    byId("alternatives").hidden = true;
  }

  close() {
    this.hide();
    this.onClose(this.place);
  }
}
