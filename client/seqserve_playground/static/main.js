// The page: one question at a time, its answer, and what is known of it.

import { Alternatives } from "./alternatives.js";
import { AttentionMap } from "./attention.js";
import { byId, element, say } from "./elements.js";
import { Heads } from "./heads.js";
import { watchMetrics } from "./metrics.js";
import { chosenOptions, countOptions, markField, resetOptions, showOptions } from "./options.js";
import { post, stream } from "./server_calls.js";
import { ServerWatch } from "./server_watch.js";
import { TokenView } from "./tokens.js";
import { showTiming } from "./timing.js";

// `model` is the one that the form is for; `answered` the one that gave the answer on the page.
const state = { model: null, answered: null, question: null, result: null, hypothesis: null, running: null };

const tokens = new TokenView(choose, (place) => {
  if (place !== map.row) map.mark(place, null); // the map that asked for it has marked a column, too
});
const map = new AttentionMap((row) => tokens.look(row));
const heads = new Heads(showWeights, stale);
const alternatives = new Alternatives(continueFrom, (place) => {
  tokens.expand(-1);
  tokens.focus(place);
});
const watch = new ServerWatch(showModels);

function showModels(models) {
  const select = byId("model");
  const chosen = models.some((model) => model.name === select.value) ? select.value : models[0]?.name;
  select.replaceChildren(...models.map(({ name }) => element("option", { value: name }, name)));
  if (chosen) select.value = chosen;
  byId("model-field").hidden = models.length < 2;
  takeModel();
}

function takeModel() {
  state.model = watch.models?.find((model) => model.name === byId("model").value) ?? null;
  if (!state.model) return;
  showOptions(state.model);
  byId("source-label").textContent = state.model.has_tokenizer ? "Source text" : "Source token ids, between spaces";
  byId("source").placeholder = state.model.has_tokenizer ? "Type or paste a text" : "This model has no tokenizer: token ids, between spaces";
  hint();
}

function hint() {
  const length = byId("source").value.length;
  const { model } = state;
  const limit = model ? `; ${model.name} takes ${model.limits.max_source_tokens} tokens` : "";
  byId("source-hint").textContent = `${length.toLocaleString("en")} characters${limit}`;
}

/** Why an answer of that model cannot be gone into any more; "" where it can. */
function stale(model) {
  const now = watch.models?.find(({ name }) => name === model?.name);
  if (now?.version === model?.version) return "";
  return `This answer is of ${model.name}, version ${model.version}, which the server does not serve any more. Generate again.`;
}

/** What the form asks. */
function questionOf() {
  const text = byId("source").value;
  const source = state.model && !state.model.has_tokenizer ? { token_ids: idsOf(text) } : { text };
  const options = { ...chosenOptions(), return_logprobs: true };
  if (state.model?.has_scorer) options.return_alignment = true;
  return { ...source, model: state.model?.name ?? null, options };
}

function idsOf(text) {
  const ids = text.split(/[\s,]+/u).filter(Boolean).map(Number);
  if (!ids.every(Number.isInteger)) throw new RangeError("Source: token ids are whole numbers");
  return ids;
}

async function ask(changes = {}, given = "") {
  state.running?.abort();
  begin(given);
  const asking = state.running = new AbortController();
  const started = performance.now();
  const { model } = state; // another may be chosen, or served, before the answer is there
  let first = null;
  try {
    const question = questionOf();
    Object.assign(question.options, changes);
    if (!changes.prefix) state.asked = question;
    state.question = question;
    checkSize(question);
    for await (const record of answer(question, asking.signal)) {
      if (state.running !== asking) return;
      if (record.type === "chunk") {
        first ??= performance.now();
        byId("stream").append(record.text || idText(record.token_ids));
      } else if (record.type === "result") {
        state.answered = model;
        finish(record.result, { total: performance.now() - started, first: first === null ? null : first - started });
      }
    }
  } catch (error) {
    if (state.running === asking) failed(error, asking.signal.aborted);
  } finally {
    if (state.running === asking) end();
  }
}

const idText = (ids) => (state.model?.has_tokenizer === false ? `${ids.join(" ")} ` : "");

/** Records of the answer. What orders whole answers cannot be streamed, and comes in one piece. */
async function* answer(question, signal) {
  if (!question.options.coverage_penalty) {
    yield* stream(question, signal);
    return;
  }
  const result = await post("/api/generate", question, signal);
  yield { type: "chunk", text: result.hypotheses[0].text, token_ids: result.hypotheses[0].token_ids };
  yield { type: "result", result };
}

function checkSize(question) {
  const bytes = new Blob([JSON.stringify(question)]).size;
  if (watch.bodyLimit && bytes > watch.bodyLimit) {
    throw new RangeError(`The source has ${bytes.toLocaleString("en")} bytes; the playground takes ${watch.bodyLimit.toLocaleString("en")}.`);
  }
}

function begin(given) {
  say("problem", "");
  say("given", given);
  markField(null);
  byId("source").removeAttribute("aria-invalid");
  alternatives.hide();
  byId("details").hidden = true;
  byId("attention").hidden = true;
  const place = byId("stream");
  place.replaceChildren();
  place.className = "running";
  byId("cancel").disabled = false;
  byId("progress").textContent = "waiting for the first token";
  // Where the options push it out of view, as on a phone.
  if (byId("answer-title").getBoundingClientRect().top > innerHeight - 100) byId("answer").scrollIntoView();
}

function end() {
  state.running = null;
  byId("stream").classList.remove("running");
  byId("cancel").disabled = true;
}

function failed(error, aborted) {
  const kept = byId("stream").textContent !== "";
  byId("stream").className = kept ? "cut" : "";
  if (aborted) {
    byId("progress").textContent = kept ? "cancelled; what had come is kept" : "cancelled";
    return;
  }
  byId("progress").textContent = kept ? "broken off; what had come is kept" : "failed";
  if (!(error instanceof RangeError) && !error.text) console.error(error);
  say("problem", error.text ?? error.message);
  const field = error.field ?? "";
  if (field.startsWith("options.")) markField(field.slice("options.".length));
  else if (field.startsWith("input")) byId("source").setAttribute("aria-invalid", "true");
  if (error.code) watch.look(); // gone, or another model: the page learns it now and not in seconds
}

const ENDS = { eos: "complete", length: "cut off at the most new tokens", stop: "ended at a stop text" };

function finish(result, seen) {
  state.result = result;
  byId("stream").replaceChildren(result.hypotheses[0].text || idText(result.hypotheses[0].token_ids));
  const cut = result.truncated_token_count ? `; ${result.truncated_token_count} source tokens were cut off` : "";
  const whose = watch.models?.length > 1 && state.answered ? `${state.answered.name}: ` : "";
  byId("progress").textContent = whose + (ENDS[result.finish_reason] ?? result.finish_reason) + cut;
  byId("details").hidden = false;
  showRanked(result.hypotheses);
  showTiming(result, seen);
  showHypothesis(0);
}

function showRanked(hypotheses) {
  byId("ranked").hidden = hypotheses.length < 2;
  byId("hypotheses").replaceChildren(...hypotheses.map((each, place) => {
    const button = element("button", { type: "button", "aria-pressed": "false" },
      element("span", { class: "figure", title: "score" }, each.score.toFixed(3)),
      element("span", { class: "text", dir: "auto" }, each.text || each.token_ids.join(" ")));
    button.addEventListener("click", () => showHypothesis(place));
    return element("li", {}, button);
  }));
}

function showHypothesis(place) {
  const { hypotheses, source_tokens: sources, finish_reason: reason } = state.result;
  const hypothesis = state.hypothesis = hypotheses[place];
  byId("hypotheses").querySelectorAll("button").forEach((button, at) => {
    button.setAttribute("aria-pressed", String(at === place));
  });
  alternatives.hide();
  // All have the same prefix; that of the best is known by how it ended, and says how the others did.
  const best = hypotheses[0];
  const given = best.token_ids.length - best.token_log_probs.length + (reason === "eos" ? 1 : 0);
  const ended = hypothesis.token_log_probs.length > hypothesis.token_ids.length - given;
  tokens.show(hypothesis, columns(hypothesis, sources), ended);
  showAttention(hypothesis);
}

const columns = (hypothesis, sources) =>
  (sources.length ? sources : (hypothesis.alignment?.[0] ?? []).map((_, place) => `#${place + 1}`));

function showAttention(hypothesis) {
  byId("attention").hidden = !hypothesis.alignment;
  if (hypothesis.alignment) heads.show(state.question, hypothesis, state.answered);
}

function showWeights(weights, words, why = "") {
  byId("attention-note").textContent = "Rows are tokens of the answer, columns tokens of the source; the larger a square, " +
    `the more the row looked at the column. Shown: ${words}.${why && ` ${why}`}`;
  map.show(tokens.pieces.map((piece) => piece.text), tokens.sources.map((piece) => piece.text), weights);
  tokens.realign(weights);
}

function choose(place) {
  tokens.expand(place);
  alternatives.show(stale(state.answered), state.asked ?? state.question, state.hypothesis, place, tokens.pieces[place].text);
}

function continueFrom(ids, label) {
  byId("stream").focus();
  ask({ prefix: ids }, `Decoded from your choice of “${label}” on. Generate starts afresh.`);
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
byId("form").addEventListener("input", () => {
  countOptions();
  hint();
});
byId("model").addEventListener("change", takeModel);
byId("reset").addEventListener("click", resetOptions);
byId("cancel").addEventListener("click", () => state.running?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    ask();
  } else if (event.key === "Escape") {
    if (alternatives.open) alternatives.close();
    else state.running?.abort();
  }
});
addEventListener("pagehide", () => state.running?.abort());
watchMetrics();
hint();
watch.look();
