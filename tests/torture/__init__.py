"""What a server bears: rows of docs/reliability.md. Each row is a function of a count, which raises where the server
breaks a promise and else tells what happened; the test suite runs them with small counts, ``make torture`` with all."""
