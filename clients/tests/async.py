"""The same with functions that wait."""

import asyncio
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import ganger


@ganger.worker("ganger.echo")
async def echo(*args, **params):
    await asyncio.sleep(0)
    return ganger.job().params


@ganger.worker("ganger.fail")
async def fail(error, then="retry", after_ms=None):
    if then == "dead":
        raise ganger.Dead(error)
    if then == "discard":
        raise ganger.Discard(error)
    raise ganger.Retry(error, after=None if after_ms is None else after_ms / 1000)


@ganger.worker("ganger.sleep")
async def sleep(seconds):
    await asyncio.sleep(seconds)


if __name__ == "__main__":
    ganger.run()
