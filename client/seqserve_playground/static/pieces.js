// Which part of an answer's text each token is. Tokenizers mark spaces in ways of their own (▁, Ġ, @@, nothing at all);
// the text is known, so the tokens are found in it, one after the other, with the marks left out.

const MARKS = /^(?:[▁Ġ]+|##)|(?:@@|<\/w>)$/gu;
const FAR = 24; // characters that tokens without text of their own (bytes of an emoji) may stand for

/**
 * @param {string[]} tokens
 * @param {string} text
 * @returns {{before: string, text: string, raw: boolean}[]} for each token, the spaces before it and its text; `raw`
 *   where it has none in the text, and is shown as the vocabulary has it.
 */
export function pieces(tokens, text) {
  let place = 0;
  return tokens.map((token) => {
    const bare = token.replace(MARKS, "");
    const found = bare ? text.indexOf(bare, place) : -1;
    if (found < 0 || found - place > FAR) {
      return { before: token.startsWith("▁") || token.startsWith("Ġ") ? " " : "", text: token, raw: true };
    }
    const skipped = text.slice(place, found);
    place = found + bare.length;
    return { before: /\s/u.test(skipped) || (skipped && found === 0) ? " " : "", text: bare, raw: false };
  });
}

/** The same for tokens whose text is not known, such as those of the source after its normalisation. */
export function loosePieces(tokens) {
  const marked = tokens.some((token) => /^[▁Ġ]/u.test(token));
  return tokens.map((token, place) => {
    const bare = token.replace(MARKS, "");
    const special = /^<.*>$/u.test(token);
    const apart = place > 0 && (special || !marked || token !== bare && !token.startsWith("##"));
    return { before: apart ? " " : "", text: bare || "␣", raw: special };
  });
}
