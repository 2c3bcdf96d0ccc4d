"""What can go wrong while exporting, each as one line for the person who ran the command.

    ExportError             the source, the target or an option is at fault; nothing was written
    └── ParityError         the bundle does not compute what the source model computes
"""

LONGEST = 2000  # characters of a message: what files say of themselves stands in some


class ExportError(Exception):
    """An export that cannot be done; the message is one line that names the file, tensor or option."""

    def __init__(self, message: str) -> None:
        line = "".join(each if each.isprintable() else _escaped(each) for each in message[:LONGEST])
        super().__init__(line if len(message) <= LONGEST else f"{line} ...")


class ParityError(ExportError):
    """The exported graphs miss the source model; the bundle was thrown away.

    ``table`` says by how much; it is empty where nothing could be measured.
    """

    def __init__(self, message: str, table: str = "") -> None:
        super().__init__(message)
        self.table = table

    def __str__(self) -> str:
        """The line, and the table below it if there is one."""
        return "\n".join(filter(None, (super().__str__(), self.table)))


def _escaped(character: str) -> str:
    """Names in files of strangers hold what they like: line ends, terminal sequences, halves of surrogate pairs."""
    return character.encode("unicode_escape").decode("ascii")
