"""Where the command `crm-sync` and `python -m worker` begin.

The imports take up to a second. A container's first process does not get a signal that it has no handler for,
so a pod that is stopped in that second would wait for SIGKILL: the handler stands before the imports.
"""

import os
import signal
from types import FrameType


def _end(number: int, _: FrameType | None) -> None:
    """End as the signal does by default, also as the first process of a container."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)


def main() -> None:
    """Run the command."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:  # as a parent may have asked for
        signal.signal(signal.SIGTERM, _end)
    from worker.cli import main as command  # noqa: PLC0415 - see above

    command()


if __name__ == "__main__":
    main()
