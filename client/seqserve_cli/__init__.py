"""The ``seqserve`` command: one module per subcommand, imported when it is chosen."""
