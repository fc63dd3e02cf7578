"""What a fork does once it is the program's process: run the program, state what came of it.

Everything here, in `scripts` and in `objects` runs beside hostile code in one interpreter, so nothing it says is
believed beyond what a program may say of itself: an output, a value, a failure. It holds no expected output.
"""

import gc
import json
import os
import sys

from pgrpo_ray.sandbox.inside.codec import Encoder, TooLarge, decode
from pgrpo_ray.sandbox.inside.frames import dumps
from pgrpo_ray.sandbox.inside.link import SOURCE, TASK, Link, blame, describe, take
from pgrpo_ray.sandbox.inside.objects import Server
from pgrpo_ray.sandbox.inside.scripts import fresh_main, run_lone_script, run_scripts


def run(job):
    """Be the program, to the end. Never returns."""
    link = Link(job.nonce)
    link.say(b"confined", str(os.getpid()))
    if job.role == "build":
        build(json.loads(take(SOURCE)))
    if job.role == "binary":
        os.dup2(TASK, 0)
        os.execve(SOURCE, ["program"], dict(os.environ))
    source = take(SOURCE)
    os.close(SOURCE)
    sys.argv[:] = ["program"]
    gc.enable()
    try:
        code = compile(source.decode("utf-8", "surrogatepass"), "<program>", "exec", dont_inherit=True)
    except BaseException as error:  # MemoryError and RecursionError of the parser are its way to say "too nested"
        link.say(b"compile_error", describe(error))
        os._exit(1)
    if job.role == "script":
        run_scripts(job, link, code) if job.count > 1 else run_lone_script(code)
    main = fresh_main("program")  # not `__main__`: what a guard holds back is for scripts
    try:
        exec(code, main.__dict__)
    except BaseException as error:
        link.say(blame(error), describe(error))
        os._exit(1)
    if job.role == "calls":
        run_calls(job, link, main.__dict__)
    else:
        Server(main.__dict__, job.limits["output_kib"] << 10).serve()
    os._exit(0)


def build(task):
    """Write the source and become the compiler."""
    with open(task["file"], "w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(task["program"])
    os.execvp(task["build"][0], task["build"])


def run_calls(job, link, namespace):
    """Do the calls of each case and state their values, case by case."""
    limit, me = job.limits["output_kib"] << 10, os.getpid()
    for case in json.loads(take(TASK)):
        values = []
        for call in case["calls"]:
            status, text = one_call(namespace, call, limit)
            if status != b"value":
                break
            values.append(text)
        else:
            text = f"[{','.join(values)}]"
        if os.getpid() != me:
            os._exit(0)  # a child that came back from the call
        link.say(status, text)
        if status != b"value" and job.stop_early:
            os._exit(0)
    link.say(b"done")


def one_call(namespace, call, limit):
    """Return (`value`, encoded result), or how the call failed and why."""
    try:
        owner, _, method = call["name"].rpartition(".")
        if (owner or method) not in namespace:
            return b"error", f"{owner or method} is not defined"
        function = getattr(namespace[owner](), method) if owner else namespace[method]
        value = function(*decode(call["args"]), **decode(call["kwargs"]))
        encoded = dumps(Encoder(limit).encode(value))
        if len(encoded) > limit:
            raise TooLarge
    except TooLarge:
        return b"output_limit", "the returned value is too large"
    except BaseException as error:
        return blame(error), describe(error)
    return b"value", encoded
