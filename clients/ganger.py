"""Does jobs for ganger's `process` worker, in Python 3.9 or later. One file, no dependency: copy it beside your program.

    from ganger import worker

    @worker("resize")
    def resize(path, width):
        ...

That is a whole program. The params of a job, a JSON object, become keyword arguments (a list: arguments; anything else:
the one argument). What the function returns is kept as the job's output: a text, bytes, or whatever JSON can hold. An
exception is a failure, tried again while retries last; `Retry`, `Discard` and `Dead` say otherwise. `async def` works as
well. Jobs are done one after the other; for more at once, give the entry in ganger's config more `workers`.

Started by ganger, the program does jobs as soon as its main module has come to its end; `run()` begins at once instead.
Elsewhere (in a test, in a shell) the functions stay plain functions, and nothing runs.

Standard output is pointed at standard error, which ganger puts into its log: `print` as you like.
"""

import asyncio
import atexit
import base64
import collections
import inspect
import json
import os
import queue
import re
import sys
import threading
import time
import traceback

__all__ = ["worker", "run", "job", "Job", "Retry", "Discard", "Dead"]
__version__ = "1.0.0"

# How many jobs are taken at once, and when their answers are written at the latest.
PIPELINE = 64
ANSWERS_MAX = 32
ANSWERS_AGE = 0.001


class Retry(Exception):
    """The job has failed and is tried again: after `after` seconds (or a timedelta), else after its backoff."""

    def __init__(self, message="to be tried again", after=None):
        super().__init__(message)
        self.after = None if after is None else float(getattr(after, "total_seconds", lambda: after)())


class Discard(Exception):
    """The job is no longer wanted: it ends as done, with this as its note."""


class Dead(Exception):
    """Another run would fail the same way: the job is dead at once."""


class Job:
    """The job under way: `job()` gives it."""

    __slots__ = ("_loop", "_message", "_number", "_began", "_cancelled", "_follow")

    def __init__(self, loop, message):
        self._loop = loop
        self._message = message
        self._number = message["job"]
        self._began = time.monotonic()
        self._cancelled = None
        self._follow = None

    id = property(lambda self: self._message["id"], doc="Its id in the store.")
    type = property(lambda self: self._message["type"], doc="Its type.")
    attempt = property(lambda self: self._message["attempt"], doc="The number of this run, from 1.")
    name = property(lambda self: self._message.get("name"), doc="Its name, or None.")
    queue = property(lambda self: self._message.get("queue", "default"), doc="Its queue.")
    headers = property(lambda self: self._message.get("headers", {}), doc="Its headers, a dict of texts.")
    params = property(lambda self: self._message.get("params"), doc="Its params, as they came.")
    input = property(lambda self: self._message.get("input"), doc="The record of a dead job, for a failure handler.")

    @property
    def deadline(self):
        """When it must have ended, on the clock of time.monotonic(); None if it has all the time."""
        timeout = self._message.get("timeout_ms")
        return None if timeout is None else self._began + timeout / 1000

    @property
    def cancelled(self):
        """Why it is to end (`cancel`, `timeout`, `lease` or `shutdown`); None while it is not."""
        return self._cancelled

    def progress(self, percent, message=""):
        """Says how far along it is, 0 to 100."""
        percent = float(percent)
        percent = min(max(percent, 0.0), 100.0) if percent == percent else 0.0
        self._say("progress", percent=percent, message=str(message)[: self._loop.room()])

    def log(self, message, level="info"):
        """Writes a line to ganger's log. Levels: error, warn, info, debug, trace."""
        self._say("log", message=str(message)[: self._loop.room()], level=str(level))

    def write(self, data):
        """Adds text or bytes to the job's output."""
        room = self._loop.room()
        if isinstance(data, str):
            for at in range(0, len(data), room):
                self._say("output", text=data[at : at + room])
        else:
            data = memoryview(data).cast("B")
            for at in range(0, len(data), room):
                self._say("output", base64=base64.b64encode(data[at : at + room]).decode())

    def follow(self, type, params=None, **fields):
        """Enqueues a job that becomes real together with this one's end, if that is a good one."""
        self._follow = self._follow or []
        self._follow.append({"type": type, "params": params, **fields})

    def _say(self, kind, **more):
        self._loop.say({"kind": kind, "job": self._number, **more})


def worker(type=None):
    """Has a function do the jobs of a type: `@worker("resize")`, or `@worker` for the type that is the function's name."""
    if callable(type):
        return worker()(type)

    def register(function):
        name = type or function.__name__
        if name in _handlers:
            raise ValueError("two functions are both the worker of `%s`" % name)
        _handlers[name] = function
        _run_at_the_end()
        return function

    return register


def job():
    """The job under way."""
    current = _loop and _loop.current
    if current is None:
        raise RuntimeError("no job is under way")
    return current


def run():
    """Does jobs until ganger has no more, then returns."""
    global _loop, _has_run
    _has_run = True
    _claim()
    _loop = _Loop(*_pipes)
    _loop.run()


_handlers = {}
_loop = None
_pipes = None
_has_run = False
_waits_for_the_end = False


def _is_ours():
    """Whether ganger started this process, and not this program's own process in turn, which has its environment."""
    own = str(os.getpid())
    return "GANGER_PROCESS" in os.environ and os.environ.get("GANGER_CLIENT", own) == own


def _claim():
    """Keeps the two pipes for the protocol: whoever reads or prints finds nothing, and standard error."""
    global _pipes
    if _pipes is not None:
        return
    os.environ["GANGER_CLIENT"] = str(os.getpid())
    sys.stdout.flush()
    _pipes = (os.dup(0), os.dup(1))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)


def _run_at_the_end():
    """Runs when the main module has come to its end: there, and not at the exit of the interpreter, where no thread can
    be started any more."""
    global _waits_for_the_end
    if _waits_for_the_end or _has_run or not _is_ours():
        return
    _waits_for_the_end = True
    atexit.register(_complain)
    frame = sys._getframe()
    while frame and not (frame.f_globals.get("__name__") == "__main__" and frame.f_code.co_name == "<module>"):
        frame = frame.f_back
    if frame is None or sys.gettrace() is not None:
        return
    raised = False

    def trace(_, event, __):
        nonlocal raised
        if event == "return":
            sys.settrace(None)
            if not raised and not _has_run:
                run()
            return None
        raised = event == "exception"
        return trace

    frame.f_trace = trace
    # Without one of the interpreter's own the frame's is not called; it looks at no other frame.
    sys.settrace(lambda *_: None)


def _complain():
    if not _has_run and getattr(sys, "last_value", None) is None:
        sys.stderr.write("ganger: no job was done: call ganger.run() at the end of the program\n")


class _Loop:
    """Reads in a thread of its own, so that a ping or a cancel is heard while a job runs; works in the main one."""

    def __init__(self, source, sink):
        self.source, self.sink = source, sink
        self.waiting = collections.deque()
        self.last = None
        self.bell = queue.SimpleQueue()
        self.ended = False
        self.lock = threading.Lock()
        self.answers = []
        self.written = 0.0
        self.current = None
        self.task = None
        self.cancelled = {}
        self.events = None
        self.line_max = 1 << 20

    def run(self):
        hello = {"kind": "hello", "protocol": 1, "types": sorted(_handlers), "can": ["cancel", "ping", "recall"]}
        self.say({**hello, "pipeline": PIPELINE, "client": "ganger.py " + __version__, "name": os.path.basename(sys.argv[0])})
        threading.Thread(target=self.read, name="ganger", daemon=True).start()
        while True:
            try:
                line = self.waiting.popleft()
            except IndexError:
                self.flush()
                if self.ended and not self.waiting:
                    break
                self.bell.get()
                continue
            self.do(line)
        if self.events is not None:
            self.events.run_until_complete(self.events.shutdown_asyncgens())
            self.events.close()

    # What is written, from both threads.

    def room(self):
        """So many characters, of 6 bytes each at most, have room in a line, with all else that is in it."""
        return max((self.line_max - 300) // 6, 1)

    def say(self, message):
        line = _line(message)
        with self.lock:
            self.answers.append(line)
            self.write()

    def answer(self, line):
        with self.lock:
            self.answers.append(line)
            # Gathered while the next jobs are quick: the first one that is not has `recall` come, which writes them.
            if not self.waiting or len(self.answers) >= ANSWERS_MAX or time.monotonic() - self.written > ANSWERS_AGE:
                self.write()

    def flush(self):
        if self.answers:
            with self.lock:
                self.write()

    def write(self):
        data = memoryview(b"".join(self.answers))
        self.answers.clear()
        try:
            while data:
                data = data[os.write(self.sink, data):]
        except BrokenPipeError:
            os._exit(1)  # ganger is gone
        self.written = time.monotonic()

    # The reading thread.

    def read(self):
        try:
            self.read_lines()
        finally:
            self.ended = True
            self.bell.put(None)

    def read_lines(self):
        rest = []
        while True:
            chunk = os.read(self.source, 1 << 18)
            if not chunk:
                return
            if b"\n" not in chunk:
                rest.append(chunk)
                continue
            lines = b"".join(rest + [chunk]).split(b"\n")
            rest = [lines.pop()]
            for line in lines:
                if line.startswith(b'{"kind":"job",'):
                    self.last = line
                    self.waiting.append(line)
                elif line.strip():
                    self.hear(line)
            self.bell.put(None)

    def hear(self, line):
        message = json.loads(line)
        kind = message.get("kind")
        if kind == "job":
            self.last = line
            self.waiting.append(line)
        elif kind == "ping":
            self.say({"kind": "pong", "ping": message["ping"]})
        elif kind == "recall":
            self.recall()
        elif kind == "cancel":
            self.cancel(message["job"], message.get("reason", "cancel"))
        elif kind == "hello":
            self.line_max = message.get("line_max", self.line_max)

    def recall(self):
        dropped = None
        while True:
            try:
                dropped = self.waiting.pop()
            except IndexError:
                break
        number = _number(dropped) if dropped else _number(self.last) + 1 if self.last else 1
        self.say({"kind": "recalled", "from": number})

    def cancel(self, number, reason):
        self.cancelled[number] = reason
        current = self.current
        if current is not None and current._number == number:
            current._cancelled = reason
            task = self.task
            if task is not None:
                self.events.call_soon_threadsafe(task.cancel)

    # The main thread.

    def do(self, line):
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            return self.answer(_fail(_number(line), "the job cannot be read: %r" % error, "dead"))
        self.current = current = Job(self, message)
        number = current._number
        if number in self.cancelled:
            answer = _fail(number, "it was to end before it was begun")
        else:
            answer = self.attempt(current, message)
        self.current = None
        # Also those that came too late for theirs.
        for cancelled in list(self.cancelled):
            if cancelled <= number:
                self.cancelled.pop(cancelled, None)
        if len(answer) > self.line_max + 1:
            answer = _fail(number, "what it returned is longer than a line may be (%d bytes)" % self.line_max, "dead")
        self.answer(answer)

    def attempt(self, current, message):
        number = current._number
        function = _handlers.get(message["type"])
        if function is None:
            return _fail(number, "this program does no jobs of type `%s`" % message["type"], "dead")
        args, kwargs = _arguments(message)
        try:
            result = function(*args, **kwargs)
            if inspect.iscoroutine(result):
                result = self.await_(result)
            return _done(number, result, current._follow)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            try:
                misfit = _misfit(function, args, kwargs, error)
                return _fail(number, misfit, "dead") if misfit else _failed(current, error)
            except Exception:
                # Its own code is run to show it, and may fail in turn.
                then = "dead" if isinstance(error, Dead) else "discard" if isinstance(error, Discard) else "retry"
                return _fail(number, "%s, which cannot be shown" % type(error).__name__, then)

    def await_(self, coroutine):
        if self.events is None:
            self.events = asyncio.new_event_loop()
            asyncio.set_event_loop(self.events)
        self.task = self.events.create_task(coroutine)
        try:
            if self.current._cancelled:
                self.task.cancel()
            return self.events.run_until_complete(self.task)
        finally:
            self.task = None


def _number(line):
    return int(re.search(rb'"job"\s*:\s*(\d+)', line).group(1))


def _arguments(message):
    if "input" in message:
        return (message["input"],), {}
    params = message.get("params")
    if params is None:
        return (), {}
    if type(params) is dict:
        return (), params
    return (params if type(params) is list else (params,)), {}


def _misfit(function, args, kwargs, error):
    """Why the params do not fit the function, if that is what the error is about."""
    if not isinstance(error, TypeError) or error.__traceback__.tb_next is not None:
        return None
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as why:
        name = getattr(function, "__name__", "the function ")
        return "the params do not fit %s%s: %s" % (name, inspect.signature(function), why)
    except ValueError:
        pass
    return None


def _done(number, result, follow):
    if result is None and follow is None:
        return b'{"kind":"done","job":%d}\n' % number
    message = {"kind": "done", "job": number}
    if isinstance(result, str):
        message["text"] = result
    elif isinstance(result, (bytes, bytearray, memoryview)):
        message["base64"] = base64.b64encode(result).decode()
    elif result is not None:
        message["output"] = result
    if follow:
        message["follow"] = follow
    try:
        return _line(message)
    except (TypeError, ValueError, RecursionError) as error:
        raise Dead("what it returned is no JSON: %s" % error) from None


def _failed(current, error):
    """What becomes of the job by an exception of the function."""
    number = current._number
    if isinstance(error, Retry):
        # Not beyond thirty years, which is as good as never.
        after = None if error.after is None else min(max(error.after, 0.0), 1e9)
        return _fail(number, str(error), "retry", None if after is None else int(after * 1000))
    if isinstance(error, Discard):
        return _fail(number, str(error), "discard")
    if isinstance(error, Dead):
        return _fail(number, str(error), "dead")
    if isinstance(error, asyncio.CancelledError) and current._cancelled:
        return _fail(number, "it ended when it was told to (%s)" % current._cancelled)
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__.tb_next))
    return _fail(number, "".join(traceback.format_exception_only(type(error), error)).strip(), text=text)


def _fail(number, error, then="retry", after_ms=None, text=None):
    room = _loop.room() // 2
    message = {"kind": "fail", "job": number, "error": error[: min(room, 4000)], "then": then}
    if after_ms is not None:
        message["after_ms"] = after_ms
    if text:
        message["text"] = text[-min(room, 16000) :]
    return _line(message)


def _line(message):
    """A message as a line. What is no character (half of a pair, as names of files may have) becomes a `?`."""
    return json.dumps(message, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace") + b"\n"


if _is_ours():
    _claim()
