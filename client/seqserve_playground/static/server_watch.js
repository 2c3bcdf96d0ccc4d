// Whether the server is there, and what it serves: asked again and again, so that a page left open notices when the
// server goes, comes back, or serves another model.

import { byId, element } from "./elements.js";
import { get } from "./server_calls.js";

const EVERY = 3000; // milliseconds

/** Show a message until it is dismissed; one with the same key takes its place. */
export function notice(key, text, bad = false) {
  document.querySelector(`#notices > [data-key="${key}"]`)?.remove();
  if (!text) return;
  const dismiss = element("button", { type: "button", "aria-label": "Dismiss this message" }, "OK");
  const shown = element("p", { "data-key": key, class: bad ? "bad" : null }, element("span", {}, text), dismiss);
  dismiss.addEventListener("click", () => shown.remove());
  byId("notices").append(shown);
}

export class ServerWatch {
  /** `onModels(models)` is called when what is served is first known, and whenever it changed. */
  constructor(onModels) {
    this.onModels = onModels;
    this.models = null;
    this.away = null;
    document.addEventListener("visibilitychange", () => this.look());
  }

  /** Look now, and then every few seconds while the page is seen. */
  async look() {
    clearTimeout(this.timer);
    if (document.visibilityState === "visible") {
      const turn = this.turn = (this.turn ?? 0) + 1;
      const found = await get("/api/status").catch((error) => ({ serving: false, error }));
      if (turn !== this.turn) return; // a later look has begun, and is newer
      this.take(found);
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.look(), EVERY);
  }

  take(found) {
    const target = found.target ?? this.target ?? "the server";
    this.target = target;
    this.bodyLimit = found.max_body_bytes ?? this.bodyLimit;
    const mark = byId("server-mark");
    mark.textContent = found.serving ? "●" : "✕";
    mark.className = `mark ${found.serving ? "good" : "bad"}`;
    if (!found.serving) {
      const playground = found.error?.code === "OFFLINE";
      const away = playground ? "playground" : "server";
      this.tell(`${playground ? "the playground" : target} does not answer; trying again`);
      if (this.away !== away) {
        notice("server", playground
          ? "The playground itself does not answer. This page goes on by itself when it is started again."
          : `The server at ${target} does not answer: ${found.error?.message ?? "unknown"}. ` +
            "This page goes on by itself when it is back.", true);
      }
      this.away = away;
      return;
    }
    this.tell(`${target} · version ${found.server_version}`);
    if (this.away) notice("server", `The server at ${target} is there.`);
    this.away = null;
    this.compare(found.models);
  }

  tell(text) {
    // Only what changed is announced; the same words again would be read out every few seconds.
    if (byId("server-text").textContent !== text) byId("server-text").textContent = text;
  }

  compare(models) {
    const before = this.models;
    this.models = models;
    if (before === null) {
      this.onModels(models);
      return;
    }
    const known = new Map(before.map((model) => [model.name, model.version]));
    const news = models.flatMap(({ name, version }) => {
      if (!known.has(name)) return [`${name} (version ${version}) is new`];
      return known.get(name) === version ? [] : [`${name} changed from version ${known.get(name)} to ${version}`];
    });
    const left = [...known.keys()].filter((name) => !models.some((model) => model.name === name));
    news.push(...left.map((name) => `${name} is not served any more`));
    if (!news.length) return;
    notice("models", `The server's models changed: ${news.join("; ")}. Limits and defaults were loaded again; ` +
      "an answer still shown is of before.");
    this.onModels(models);
  }
}
