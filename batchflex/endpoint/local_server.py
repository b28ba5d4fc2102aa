"""The embedded model's server: llama.cpp's own, in a child process.

``python -m batchflex.endpoint.local_server MODEL.gguf SLOTS CONTEXT NAME PORT`` prints one line of JSON with its address and
serves until its standard input ends; port 0 is any that is free. The parent holds the other end of that, so the child also goes
when the parent is killed.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    path, slots, context, name, port = sys.argv[1:6]
    # What the libraries print must not fill the pipe, which nobody reads after the first line.
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.model_alias = {name}
    if hasattr(params, "hostnames"):
        params.hostnames = ["127.0.0.1"]
    else:  # before xllamacpp 2026.10
        params.hostname = "127.0.0.1"
    params.port = int(port)
    params.n_parallel = int(slots)
    params.n_ctx = int(slots) * int(context)
    affinity = getattr(os, "sched_getaffinity", None)  # not everywhere
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    # The threads wait for each other at every layer: where the run takes a core from one of them, all of them crawl.
    params.cpuparams.n_threads = max(1, cores - 1)
    params.endpoint_metrics = True
    params.warmup = False
    params.verbosity = 0
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        sys.exit(f"{path} cannot be served: {error}")
    os.write(answer, json.dumps({"base_url": f"{server.listening_address}/v1"}).encode() + b"\n")
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(0)  # the server's threads must not delay the end of the run


if __name__ == "__main__":
    main()
