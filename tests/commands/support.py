"""Helpers of the tests of commands."""

import pytest

from fastopt import cli


def run(capsys, *arguments):
    """Status, output and errors of a command, in a terminal of 80 columns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        try:
            status = cli.main(arguments)
        except SystemExit as stop:
            status = stop.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err
