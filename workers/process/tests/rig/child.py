"""A program of the protocol that does wrong what its jobs ask for: {"do": …}."""
import json, os, signal, subprocess, sys, threading, time

options = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}


def say(**message):
    os.write(1, (json.dumps(message) + "\n").encode())


def note(text):
    if "notes" in options:
        with open(options["notes"], "a") as file:
            file.write(text + "\n")


note("start %d" % os.getpid())
if "first_seconds" in options and not os.path.exists(options["notes"] + ".once"):
    open(options["notes"] + ".once", "w").close()
    time.sleep(options["first_seconds"])
signal.signal(signal.SIGUSR1, lambda *_: note("told %d" % os.getpid()))
if options.get("start") == "die":
    sys.stderr.write("no such database\n")
    sys.exit(3)
if options.get("start") == "garbage":
    print("Welcome to my program", flush=True)
if options.get("start") == "mute":
    time.sleep(1000)
if options.get("start") == "die_while" and os.path.exists(options["flag"]):
    sys.exit(4)
say(kind="hello", protocol=options.get("protocol", 1), can=options.get("can", ["cancel", "ping", "recall"]),
    pipeline=options.get("pipeline", 1), **({"types": options["types"]} if "types" in options else {}))

def gathers():
    """Whether answers are kept back: while a file is there."""
    return os.path.exists(options.get("gathers", ""))


queue, room = [], threading.Condition()
cancelled, deaf = set(), threading.Event()


def listen():
    for line in sys.stdin:
        message = json.loads(line)
        kind = message["kind"]
        with room:
            if kind == "job":
                queue.append(message)
            elif kind == "recall" and not deaf.is_set() and not gathers():
                rest = [job["job"] for job in queue]
                queue.clear()
                say(kind="recalled", **{"from": min(rest) if rest else 1 << 40})
            elif kind == "cancel":
                note("cancel %s" % message["reason"])
                cancelled.add(message["job"])
            elif kind == "ping" and not deaf.is_set():
                say(kind="pong", ping=message["ping"])
            room.notify()
    with room:
        queue.append(None)
        room.notify()


if options.get("reads", True):
    threading.Thread(target=listen, daemon=True).start()
else:
    time.sleep(1000)

hoard = []
while True:
    with room:
        while not queue:
            room.wait()
        job = queue.pop(0)
    if job is None:
        note("end")
        if "last_seconds" in options:
            for n in range(3000):
                say(kind="log", message="last words %d %s" % (n, "x" * 100))
            time.sleep(options["last_seconds"])
            note("left")
        if options.get("stays"):
            time.sleep(1000)
        sys.exit(0)
    number, params = job["job"], job.get("params") or {}
    do = params.get("do", "done")
    note("begin %s" % job["id"])
    if do == "die":
        if gathers():
            os.unlink(options["gathers"])
        sys.stderr.write("about to die\n")
        sys.stderr.flush()
        os._exit(7)
    elif do == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif do == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif do == "hang":
        deaf.set()
        time.sleep(1000)
    elif do == "sleep":
        end = time.monotonic() + params["seconds"]
        while time.monotonic() < end and (params.get("deaf") or number not in cancelled):
            time.sleep(0.002)
        if number in cancelled:
            say(kind="fail", job=number, error="cancelled")
            continue
    elif do == "until":
        while not os.path.exists(params["file"]):
            time.sleep(0.002)
    elif do == "garbage":
        os.write(1, b"\x1b[31mTraceback\xff\n")
        time.sleep(1000)
    elif do == "partial":
        os.write(1, b'{"kind":"done","jo')
        os._exit(0)
    elif do == "flood":
        while True:
            os.write(1, b"x" * 65536)
    elif do == "chatter":
        for n in range(20000):
            say(kind="log", job=number, message="chatter %d" % n)
    elif do == "gush":
        if params.get("idle"):
            say(kind="done", job=number)
        # Faster than anybody reads.
        subprocess.run(["yes", params["line"]])
    elif do == "complain":
        for n in range(2000):
            sys.stderr.write("complaint %d %s\n" % (n, "x" * 500))
        sys.stderr.flush()
    elif do == "close_stdout":
        os.close(1)
        time.sleep(1000)
    elif do == "grow":
        hoard.append(b"x" * (64 << 20))
    elif do == "daemon":
        pid = subprocess.Popen(["setsid", "sleep", "1000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid
        say(kind="done", job=number, text=str(pid))
        continue
    elif do == "echo":
        say(kind="done", job=number, output=job)
        continue
    elif do == "say":
        for message in params["messages"]:
            os.write(1, (json.dumps(message).replace('"JOB"', str(number)) + "\n").encode())
        if params.get("then") == "wait":
            time.sleep(1000)
        continue
    elif do == "spin":
        while True:
            pass
    elif do == "open":
        while True:
            hoard.append(open(os.devnull))
    elif do == "write":
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        with open(params["file"], "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
    elif do == "use":
        end = time.process_time() + params["seconds"]
        while time.process_time() < end:
            pass
    elif do == "show":
        files = {name: os.close(os.open("/dev/" + name, mode)) for name, mode in
                 {"stdin": os.O_RDONLY, "stdout": os.O_WRONLY, "stderr": os.O_WRONLY}.items()}
        mask = os.umask(0)
        os.umask(mask)
        say(kind="done", job=number, output={
            "uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(), "opened": sorted(files),
            "home": os.environ.get("HOME"), "user": os.environ.get("USER"),
            "umask": mask, "nice": os.nice(0),
            "limits": open("/proc/self/limits").read(), "status": open("/proc/self/status").read(),
        })
        continue
    elif do == "pid":
        say(kind="done", job=number, text=str(os.getpid()))
        continue
    elif do == "env":
        say(kind="done", job=number, output=dict(os.environ))
        continue
    if not gathers():
        say(kind="done", job=number)
