"""Why a text has no ids."""


class UnencodableText(Exception):
    """A text cannot be given ids; the message says what in it, for whoever sent it."""


class UnknownLanguage(UnencodableText):
    """It names a target language that a multilingual model does not have."""


class UnknownWord(UnencodableText):
    """It has a word or piece that the vocabulary lacks, and there is no token for unknown ones."""
