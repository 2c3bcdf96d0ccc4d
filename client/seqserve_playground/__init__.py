"""A web page in front of a server, for people who want to see what a model does: ``seqserve playground``.

``application`` answers the page's requests with an ``AsyncClient``; ``guard`` lets in nobody but a page of this
machine; ``web_server`` listens, on loopback only. The page itself is in ``static``: HTML, CSS and
ES modules, as they are.
"""
