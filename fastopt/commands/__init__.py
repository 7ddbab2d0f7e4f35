"""The work behind the command line, a module for each command; `fastopt.cli` parses."""
