// An answer token by token: shaded by probability, with what each looked at.

import { byId, element, percent } from "./elements.js";
import { loosePieces, pieces } from "./pieces.js";

const NAMED = 3; // source tokens told of
const WORTH = 0.02; // weight below which a source token is not marked

/**
 * Shows one hypothesis. `onChoose(place)` is called for a click or Enter, `onLook(place)` for a token pointed at.
 */
export class TokenView {
  constructor(onChoose, onLook) {
    this.onChoose = onChoose;
    this.onLook = onLook;
    this.row = byId("tokens");
    this.row.addEventListener("click", (event) => this.at(event, (place) => this.onChoose(place)));
    this.row.addEventListener("pointerover", (event) => this.at(event, (place) => this.look(place)));
    this.row.addEventListener("focusin", (event) => this.at(event, (place) => this.look(place)));
    this.row.addEventListener("keydown", (event) => this.move(event));
    this.hypothesis = null;
    this.place = null;
  }

  at(event, act) {
    const button = event.target.closest("button.token");
    if (button) act(Number(button.dataset.place));
  }

  /**
   * @param hypothesis of the server's
   * @param {string[]} sourceTokens columns of its alignment; may be empty
   * @param {boolean} ended whether its last log-probability is that of the end token
   */
  show(hypothesis, sourceTokens, ended) {
    this.hypothesis = hypothesis;
    const tokens = shownTokens(hypothesis);
    this.pieces = hypothesis.text ? pieces(tokens, hypothesis.text) : loosePieces(tokens);
    this.sources = loosePieces(sourceTokens);
    const scores = hypothesis.token_log_probs;
    this.given = scores.length ? tokens.length - scores.length + (ended ? 1 : 0) : 0; // the prefix has no scores
    this.probabilities = tokens.map((_, place) =>
      scores.length && place >= this.given ? Math.exp(scores[place - this.given]) : null);
    this.row.replaceChildren(...this.pieces.flatMap((piece, place) => [piece.before, this.button(piece, place)]));
    byId("source-tokens").replaceChildren(...this.sources.flatMap((piece) => [
      piece.before, element("span", { class: piece.raw ? "source-token raw" : "source-token" }, piece.text),
    ]));
    this.look(null);
  }

  button(piece, place) {
    const share = this.probabilities[place];
    const level = share === null ? "p-none" : share >= 0.9 ? "p4" : share >= 0.7 ? "p3" : share >= 0.4 ? "p2" : "p1";
    const said = share === null ? "given" : `probability ${percent(share)}`;
    return element("button", {
      type: "button", class: `token ${level}${piece.raw ? " raw" : ""}`, "data-place": place,
      tabindex: place === 0 ? 0 : -1, "aria-label": `${piece.text}, ${said}`, "aria-describedby": "token-info",
      "aria-expanded": "false",
    }, piece.text);
  }

  /** Put the alignment of another head in. */
  realign(alignment) {
    this.hypothesis = { ...this.hypothesis, alignment };
    this.look(this.place);
  }

  look(place) {
    this.place = place;
    const weights = place === null ? null : this.hypothesis?.alignment?.[place];
    const best = weights ? order(weights) : [];
    [...byId("source-tokens").children].forEach((span, column) => {
      const weight = weights?.[column] ?? 0;
      span.classList.toggle("looked", weight >= WORTH);
      span.classList.toggle("most", column === best[0]);
      span.style.setProperty("--weight", weight.toFixed(3));
    });
    byId("token-info").textContent = place === null ? "\u00a0" : this.told(place, weights, best);
    this.onLook(place);
  }

  told(place, weights, best) {
    const share = this.probabilities[place];
    const parts = [`“${this.pieces[place].text}”: ${share === null ? "given, not generated" : percent(share)}`];
    if (weights) {
      const named = best.slice(0, NAMED).map((column) => `${this.sources[column]?.text ?? column} ${percent(weights[column])}`);
      parts.push(`looked at ${named.join(", ")}`);
    }
    return parts.join(" · ");
  }

  move(event) {
    const buttons = [...this.row.querySelectorAll("button.token")];
    const place = buttons.indexOf(document.activeElement);
    if (place < 0) return;
    const right = getComputedStyle(this.row).direction === "rtl" ? -1 : 1;
    const target = {
      ArrowRight: place + right, ArrowLeft: place - right, Home: 0, End: buttons.length - 1,
    }[event.key];
    if (target === undefined || !buttons[target]) return;
    event.preventDefault();
    this.focus(target);
  }

  /** One stop of the Tab key for the whole row; arrows move inside. */
  focus(place) {
    this.row.querySelectorAll("button.token").forEach((button, at) => {
      button.tabIndex = at === place ? 0 : -1;
      if (at === place) button.focus();
    });
  }

  expand(place) {
    this.row.querySelectorAll("button.token").forEach((button, at) => {
      button.setAttribute("aria-expanded", String(at === place));
    });
  }
}

/** Entries of the vocabulary, or ids for a model without a tokenizer. */
export const shownTokens = (hypothesis) =>
  hypothesis.tokens.length ? hypothesis.tokens : hypothesis.token_ids.map(String);

const order = (weights) => [...weights.keys()].sort((a, b) => weights[b] - weights[a]);
