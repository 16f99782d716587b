"""What `ganger plugin test` asks a program for, by the Python client."""

import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from ganger import Dead, Discard, Retry, job, worker

print("what is printed does no harm")


@worker("ganger.echo")
def echo(*args, **params):
    print("nor does this", file=sys.stdout)
    return job().params


@worker("ganger.fail")
def fail(error, then="retry", after_ms=None):
    if then == "dead":
        raise Dead(error)
    if then == "discard":
        raise Discard(error)
    if after_ms is not None:
        raise Retry(error, after=after_ms / 1000)
    raise ValueError(error)


@worker("ganger.sleep")
def sleep(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end and not job().cancelled:
        time.sleep(0.005)
    if job().cancelled:
        raise Retry("cancelled")
