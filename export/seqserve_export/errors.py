"""What can go wrong while exporting, each as one line for the person who ran the command.

    ExportError             the source, the target or an option is at fault; nothing was written
    └── ParityError         the bundle does not compute what the source model computes
"""


class ExportError(Exception):
    """An export that cannot be done; the message is one line that names the file, tensor or option."""


class ParityError(ExportError):
    """The exported graphs miss the source model; the bundle was thrown away. The report says by how much."""
