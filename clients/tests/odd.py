"""Does what programs do that nobody thought of: {"do": …}. Its process must stay, and each job be answered."""

import asyncio
import functools
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, ".."))

from ganger import Dead, Retry, job, worker


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class UnspeakableDead(Dead):
    __str__ = Unspeakable.__str__


class Unfinished(Retry):
    def __init__(self):
        pass


def raises(error):
    raise error


def prints():
    print("printed")
    os.write(1, b"written past Python\n")
    subprocess.run(["sh", "-c", "echo by a program; cat"], check=True)
    # One that has the client too, and the whole of this one's environment.
    tool = "import sys; sys.path.insert(0, %r); import ganger; print('a tool')" % os.path.join(HERE, "..")
    return subprocess.run([sys.executable, "-c", tool], stdout=subprocess.PIPE, check=True, text=True).stdout


def says():
    job().progress(float("nan"), "none")
    job().progress(1e300)
    job().log("a level of its own", 20)
    job().log("l" * 100_000)
    job().log("half \udcff")
    job().write("ä\n" * 50_000)
    job().write(b"\0" * 50_000)


DEEDS = {
    "pid": lambda: str(os.getpid()),
    "half": lambda: "a\udcffb",
    "halves": lambda: {"name": ["a\udcffb"]},
    "raises_half": lambda: raises(ValueError("a\udcffb")),
    "prints": prints,
    "says": says,
    "progresses_by_text": lambda: job().progress("50%"),
    "object": object,
    "set": lambda: {1, 2},
    "nan": lambda: float("nan"),
    "too_long": lambda: "x" * (1 << 20),
    "follows_no_json": lambda: job().follow("process", object()),
    "exits": lambda: sys.exit(3),
    "is_cancelled": lambda: raises(asyncio.CancelledError()),
    "unspeakable": lambda: raises(Unspeakable()),
    "unspeakable_dead": lambda: raises(UnspeakableDead()),
    "unfinished": lambda: raises(Unfinished()),
    "retries_soon": lambda: raises(Retry("later", after="soon")),
    "retries_never": lambda: raises(Retry("later", after=float("inf"))),
    "raises_much": lambda: raises(ValueError("ä" * 100_000)),
    "recurses": lambda: DEEDS["recurses"](),
}


@worker("process")
def odd(do):
    return DEEDS[do]()


@worker("partial")
def _(n):
    return n


class Callable:
    async def __call__(self, n):
        await asyncio.sleep(0)
        return str(n)


worker("callable")(Callable())
worker("fixed")(functools.partial(lambda n: n, 1))
