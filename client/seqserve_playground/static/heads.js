// The choice of a layer and a head: the server scores the answer once more, and tells their attention.

import { byId, element } from "./elements.js";
import { post } from "./server_calls.js";

const LANGUAGES = ["source_language", "target_language"];

export class Heads {
  /**
   * `onAlignment(weights, words, why)` gets the attention of the choice, what to call it, and why it is not the one
   * that was chosen, where it is not. `stale(model)` says why the server cannot be asked about an answer of that model
   * any more; "" where it can.
   */
  constructor(onAlignment, stale) {
    this.onAlignment = onAlignment;
    this.stale = stale;
    byId("heads").addEventListener("change", () => this.choose());
  }

  /**
   * The answer that the lists are about, with the question that it answers and the model that gave it. The choice
   * before is kept where that model has it.
   */
  show(question, hypothesis, model) {
    this.aborted?.abort();
    Object.assign(this, { question, hypothesis, model });
    byId("heads").hidden = !model.alignment_layers;
    fill("layer", "default", model.alignment_layers);
    fill("head", "mean of all", model.alignment_heads);
    // What came with the answer is there at once, and takes the place of what was drawn for another answer.
    this.onAlignment(hypothesis.alignment, this.usual);
    if (byId("layer").value) this.choose();
    else this.choosable();
  }

  /** A head is one of a chosen layer's. */
  choosable() {
    const layer = Number(byId("layer").value);
    byId("head").disabled = !layer;
    if (!layer) byId("head").value = "";
    return layer;
  }

  get words() {
    const [layer, head] = [byId("layer").value, byId("head").value];
    return `layer ${layer} of ${this.model.alignment_layers}, ${head ? `head ${head}` : "mean of all heads"}`;
  }

  get usual() {
    return this.model.alignment_source || "the model's alignment";
  }

  async choose() {
    this.aborted?.abort();
    const asking = this.aborted = new AbortController();
    const layer = this.choosable();
    if (!layer) {
      this.onAlignment(this.hypothesis.alignment, this.usual);
      return;
    }
    const { words } = this;
    try {
      const weights = await this.weights(layer, asking.signal);
      if (!asking.signal.aborted) this.onAlignment(weights, words);
    } catch (error) {
      if (!asking.signal.aborted) {
        this.onAlignment(this.hypothesis.alignment, `${this.usual}, and not ${words}`, why(error));
      }
    }
  }

  /** Attention [target][source] of a layer, and of the chosen head of it. */
  async weights(layer, signal) {
    const stale = this.stale(this.model);
    if (stale) throw new RangeError(stale);
    const { options, ...source } = this.question;
    const languages = Object.fromEntries(LANGUAGES.filter((name) => options[name]).map((name) => [name, options[name]]));
    const found = await post("/api/score", {
      ...source, target_ids: this.hypothesis.token_ids, options: {
        ...languages, return_alignment: true, alignment_layer: layer, alignment_head: Number(byId("head").value) || undefined,
      },
    }, signal);
    return found.alignment;
  }
}

/** Why there is no attention of the choice. An answer that fills the model has no room left for what scoring adds. */
function why(error) {
  const words = error.text ?? error.message;
  return error.field === "pairs[0].target.token_ids"
    ? `Layers and heads can be chosen for answers that leave room for the end token. ${words}` : words;
}

function fill(id, first, count) {
  const before = byId(id).value;
  const numbers = Array.from({ length: count ?? 0 }, (_, place) => String(place + 1));
  byId(id).replaceChildren(element("option", { value: "" }, first),
    ...numbers.map((number) => element("option", { value: number }, number)));
  if (numbers.includes(before)) byId(id).value = before;
}
