"""The command line, run in the tests' own process."""

import sys

import adaptive_smoothing_zoo.cli as cli


def run(capsys, *arguments):
    """Exit code, standard output and standard error of ``asz`` in this process."""
    old = sys.argv
    sys.argv = ["asz", *map(str, arguments)]
    try:
        cli.main()
        code = 0
    except SystemExit as error:
        code = error.code
    finally:
        sys.argv = old
    captured = capsys.readouterr()
    return code, captured.out, captured.err
