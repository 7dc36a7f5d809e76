"""Makes `python -m worker` the same as the command `crm-sync`."""

from worker.cli import main

main()
