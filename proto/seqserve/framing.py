"""What a family puts around a source and before a target: end tokens, start tokens, language codes. Pure.

A place that depends on the request holds a word instead of an id: ``SOURCE_LANGUAGE`` or ``TARGET_LANGUAGE``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

SOURCE_LANGUAGE, TARGET_LANGUAGE = "source_language", "target_language"
Place = int | str


class LanguageError(ValueError):
    """A language is missing, unknown, or given to a model that has none. ``field`` says which of the two."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Frame:
    """Ids for one pair of languages.

    Attributes:
        prefix, suffix: Around the content of a source.
        prompt: What the decoder is fed before it chooses: the start token, then tokens that the family forces.
    """

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    prompt: tuple[int, ...]

    def complete(self, content: tuple[int, ...]) -> tuple[int, ...]:
        """The source as the encoder sees it."""
        return (*self.prefix, *content, *self.suffix)


@dataclass(frozen=True, kw_only=True)
class Framing:
    """Frames for all languages of a model.

    Attributes:
        source_prefix, source_suffix, decoder_prompt: Ids, or words for languages. A prompt has at least one place.
        languages: Ids by code; empty for models without.
        default_source_language, default_target_language: Codes, or None: the caller has to say.
    """

    source_prefix: tuple[Place, ...] = ()
    source_suffix: tuple[Place, ...] = ()
    decoder_prompt: tuple[Place, ...]
    languages: Mapping[str, int]
    default_source_language: str | None = None
    default_target_language: str | None = None

    @property
    def words(self) -> frozenset[str]:
        """Which of the two languages the model takes."""
        places = (*self.source_prefix, *self.source_suffix, *self.decoder_prompt)
        return frozenset(place for place in places if isinstance(place, str))

    def frame(self, source_language: str | None = None, target_language: str | None = None) -> Frame:
        """The ids for two languages; None takes the default.

        Raises:
            LanguageError: the model has no such language or none at all, or there is no default.
        """
        given = {SOURCE_LANGUAGE: source_language, TARGET_LANGUAGE: target_language}
        defaults = {
            SOURCE_LANGUAGE: self.default_source_language, TARGET_LANGUAGE: self.default_target_language,
        }
        ids: dict[Place, int] = {}
        for word, code in given.items():
            if word in self.words:
                ids[word] = self._id(word, code if code is not None else defaults[word])
            elif code is not None:
                raise LanguageError(word, f"{code[:40]!r} is given, but this model takes no {word.replace('_', ' ')}")

        def resolve(some: tuple[Place, ...]) -> tuple[int, ...]:
            return tuple(place if isinstance(place, int) else ids[place] for place in some)

        return Frame(resolve(self.source_prefix), resolve(self.source_suffix), resolve(self.decoder_prompt))

    def example(self) -> Frame:
        """A frame for trying the model out: languages without a default are the first of all codes."""
        first = min(self.languages, default=None)
        languages = {
            word: default or first if word in self.words else None
            for word, default in (
                (SOURCE_LANGUAGE, self.default_source_language), (TARGET_LANGUAGE, self.default_target_language),
            )
        }
        return self.frame(languages[SOURCE_LANGUAGE], languages[TARGET_LANGUAGE])

    def _id(self, word: str, code: str | None) -> int:
        known = ", ".join(sorted(self.languages))
        if code is None:
            raise LanguageError(word, f"is required, this model has several languages: {known}")
        if code not in self.languages:
            raise LanguageError(word, f"{code[:40]!r} is not one of {known}")
        return self.languages[code]
