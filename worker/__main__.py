"""The entry point of the command `crm-sync` and of `python -m worker`.

The imports take up to a second. A container's first process does not get a signal that it has no handler for,
so a pod that is stopped in that second would wait for SIGKILL: the handler is set before the imports.
"""

import gc
import os
import signal
from types import FrameType


def _end(number: int, _: FrameType | None) -> None:
    """End the process as the signal does by default, also if it is the first of a container."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)


def main() -> None:
    """Run the command."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:  # as a parent may have asked for
        signal.signal(signal.SIGTERM, _end)
    gc.disable()  # imports leave no garbage; looking for it takes a sixth of the time. `cli.load` enables it
    from worker.cli import main as command  # noqa: PLC0415 - see above

    command()


if __name__ == "__main__":
    main()
