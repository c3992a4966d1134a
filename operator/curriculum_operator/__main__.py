"""The operator process: `python -m curriculum_operator`, set up by the variables `CURRICULUM_*`.

It ends with 0 on SIGTERM or SIGINT, after giving the Lease back, and with 1 as soon as anything
that it needs is lost: a watch, a worker, the Lease. Whoever runs it starts it anew.
"""

import asyncio
import logging
import sys

from curriculum_operator import clock, cluster, handlers, kinds, lease, logs, progress
from curriculum_operator import settings as options
from curriculum_operator.cluster import ApiCluster
from curriculum_operator.engine import Engine

logger = logging.getLogger("curriculum_operator")

STOP_SECONDS = 3.0
"""How long kopf may take to end by itself."""


async def operate(settings: options.Settings) -> int:
    """Run until a signal or a loss; returns the exit status."""
    async with await cluster.connect() as api:
        await _until_served(api)
        scopes = {name: api.within(name) for name in settings.namespaces}
        home = api.within(settings.lease_namespace)
        engine = Engine(api, settings, scopes=scopes, home=home)
        work = asyncio.create_task(_work(engine, api, settings), name="engine")

        async def stop() -> None:
            work.cancel()
            await asyncio.wait({work})

        watch = asyncio.create_task(handlers.run(engine, settings, stop), name="kopf")
        await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not work.cancelled():
            # Something is lost. Otherwise kopf is ending, and stopped the engine itself.
            await stop()
            watch.cancel()
        await asyncio.wait({watch}, timeout=STOP_SECONDS)
    lost = [task for task in (work, watch) if not task.cancelled() and _failed(task)]
    return 1 if lost or not watch.done() or watch.cancelled() else 0


def _failed(task: asyncio.Task[None]) -> bool:
    error = task.exception() if task.done() else None
    if error is not None:
        _explain(error)
    return error is not None


async def _work(engine: Engine, api: ApiCluster, settings: options.Settings) -> None:
    server = progress.Server(engine, api, engine.clock)
    async with progress.serve(server, settings.progress_host, settings.progress_port):
        try:
            await engine.run()
        finally:
            await engine.release()


def _explain(error: BaseException) -> None:
    lost = error.subgroup(lease.Lost) if isinstance(error, BaseExceptionGroup) else None
    if lost is not None:
        logger.error("the Lease is lost: %s", lost.exceptions[0])
    else:
        logger.error("ended by an error", exc_info=error)


async def _until_served(api: ApiCluster) -> None:
    """Wait for the API server, and for the kind of the curricula."""
    failures = 0
    while True:
        try:
            await api.list(kinds.CURRICULA)
        except cluster.ClusterError as error:
            failures += 1
            logger.warning("the curricula cannot be listed yet: %s", error)
            await asyncio.sleep(clock.backoff(failures, most=15.0))
        else:
            return


def main() -> int:
    """Entry point; returns the exit status."""
    try:
        settings = options.from_environment()
    except ValueError as error:
        print(f"curriculum-operator: {error}", file=sys.stderr)
        return 2
    logs.configure(settings.log_format, settings.log_level)
    return asyncio.run(operate(settings))


if __name__ == "__main__":
    sys.exit(main())
