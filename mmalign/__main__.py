"""`mmalign` and `python -m mmalign`."""

import sys

from mmalign.stop import call_interruptibly


def main() -> None:
    sys.exit(call_interruptibly(_run))


def _run() -> int:
    from mmalign.cli import run  # imported here, so that a signal during the imports of click or torch counts too

    return run(sys.argv[1:])


if __name__ == "__main__":
    main()
