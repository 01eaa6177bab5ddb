"""`mmalign` and `python -m mmalign`."""

import sys


def main() -> None:
    from mmalign.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
