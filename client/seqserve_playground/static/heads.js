// The choice of a layer and a head: the server scores the answer once more, and tells their attention.

import { byId, element } from "./elements.js";
import { post } from "./server_calls.js";

const LANGUAGES = ["source_language", "target_language"];

export class Heads {
  /** `onAlignment(weights, words)` gets the attention of the choice, and what to call it. */
  constructor(onAlignment) {
    this.onAlignment = onAlignment;
    byId("heads").addEventListener("change", () => this.choose());
  }

  /** Fill the lists for a model; without a choice they are hidden. */
  offer(model) {
    byId("heads").hidden = !model.alignment_layers;
    fill("layer", "the usual", model.alignment_layers);
    fill("head", "mean of all", model.alignment_heads);
    byId("head").disabled = true;
  }

  /** The answer that the lists are about, with the question that it answers. The choice before is kept. */
  show(question, hypothesis, model) {
    Object.assign(this, { question, hypothesis, model });
    this.choose();
  }

  get words() {
    const [layer, head] = [byId("layer").value, byId("head").value];
    if (!layer) return this.model?.alignment_source || "the model's alignment";
    return `layer ${layer} of ${this.model.alignment_layers}, ${head ? `head ${head}` : "mean of all heads"}`;
  }

  async choose() {
    this.aborted?.abort();
    const asking = this.aborted = new AbortController();
    const layer = Number(byId("layer").value);
    byId("head").disabled = !layer;
    if (!layer) {
      byId("head").value = "";
      this.onAlignment(this.hypothesis.alignment, this.words);
      return;
    }
    const { options, ...source } = this.question;
    const languages = Object.fromEntries(LANGUAGES.filter((name) => options[name]).map((name) => [name, options[name]]));
    try {
      const found = await post("/api/score", {
        ...source, target_ids: this.hypothesis.token_ids, options: {
          ...languages, return_alignment: true, alignment_layer: layer, alignment_head: Number(byId("head").value) || undefined,
        },
      }, asking.signal);
      if (!asking.signal.aborted) this.onAlignment(found.alignment, this.words);
    } catch (error) {
      if (!asking.signal.aborted) byId("attention-note").textContent = error.text ?? String(error);
    }
  }
}

function fill(id, first, count) {
  const before = byId(id).value;
  const numbers = Array.from({ length: count ?? 0 }, (_, place) => String(place + 1));
  byId(id).replaceChildren(element("option", { value: "" }, first),
    ...numbers.map((number) => element("option", { value: number }, number)));
  if (numbers.includes(before)) byId(id).value = before;
}
