"""The program `python -m simulators.dialer`."""

import asyncio

from simulators.dialer import StandInDialer
from simulators.stand_in import program_arguments, serve_until_signal


def main() -> None:
    """Serve as a program until SIGTERM or SIGINT."""
    parser = program_arguments("A stand-in for VICIdial's non-agent API.")
    parser.add_argument("--dialect", choices=("real", "tutorial"), default="real")
    parser.add_argument("--separator", default="|", help="of the tutorial dialect")
    parser.add_argument("--service-time", type=float, default=0.0, help="seconds of work for each answer")
    parser.add_argument("--count-only", action="store_true", help="keep no list of the requests")
    chosen = parser.parse_args()

    async def serve() -> None:
        dialer = StandInDialer(
            port=chosen.port,
            delay=chosen.delay,
            dialect=chosen.dialect,
            separator=chosen.separator,
            keep_requests=not chosen.count_only,
        )
        dialer.service_time = chosen.service_time
        await serve_until_signal(dialer, chosen.config)

    asyncio.run(serve())


if __name__ == "__main__":
    main()
