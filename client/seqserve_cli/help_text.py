"""How ``--help`` is laid out: paragraphs as wide as the terminal, examples as they are written."""

import argparse
import shutil
import textwrap

MOST_COLUMNS = 100  # longer lines are hard to read


class Paragraphs(argparse.RawDescriptionHelpFormatter):
    """Fills descriptions anew; a line that is indented or empty stays as it is, and ends a paragraph."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=min(shutil.get_terminal_size().columns - 2, MOST_COLUMNS))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        filled: list[str] = []
        paragraph: list[str] = []

        def end() -> None:
            if paragraph:
                filled.append(textwrap.fill(
                    " ".join(paragraph), width, initial_indent=indent, subsequent_indent=indent,
                    break_long_words=False, break_on_hyphens=False,
                ))
                paragraph.clear()

        for line in text.splitlines():
            if line and not line.startswith(" "):
                paragraph.append(line)
                continue
            end()
            filled.append(indent + line if line else "")
        end()
        return "\n".join(filled)
