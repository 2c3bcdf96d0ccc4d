"""What crosses a boundary: the wire protocol (``seqserve.v1``) and the bundle format (``seqserve.bundle``)."""

__version__ = "0.1.0"
