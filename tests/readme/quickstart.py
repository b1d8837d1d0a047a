"""Runs the commands of the README's section "Step by step" as they stand there.

A block marked `serve="TEXT"` goes to the background until the end, and is ready when it has printed
TEXT. The other blocks run to their end and must succeed. Exit status 0 means that the last command,
the consumer, has printed the events that the service wrote.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys
import threading

ROOT = pathlib.Path(__file__).resolve().parents[2]
BLOCK = re.compile(r'^```sh(?: serve="(?P<ready>[^"]+)")?\n(?P<code>.*?)^```', re.M | re.S)
READY_SECONDS = 900  # a first build may be part of it
SERVERS = []


def blocks():
    text = (ROOT / "README.md").read_text()
    section = text.split("\n## Step by step\n", 1)[1].split("\n## ", 1)[0]
    return [(match["ready"], match["code"].strip()) for match in BLOCK.finditer(section)]


def serve(code, ready):
    process = subprocess.Popen(
        ["bash", "-ec", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", start_new_session=True,
    )
    SERVERS.append(process)
    seen = threading.Event()

    def read():
        for line in process.stdout:
            print(f"    [{process.pid}] {line}", end="", flush=True)
            if ready in line:
                seen.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    for _ in range(READY_SECONDS):
        if seen.wait(1):
            return
        if process.poll() is not None:
            break
    sys.exit(f"the command never said {ready!r}:\n{code}")


def finish(code):
    done = subprocess.run(
        ["bash", "-ec", code], cwd=ROOT, capture_output=True, text=True, errors="replace",
        timeout=READY_SECONDS,
    )
    print(done.stdout, done.stderr, flush=True)
    if done.returncode != 0:
        sys.exit(f"exit status {done.returncode}:\n{code}")
    return done.stdout


def main():
    output = ""
    steps = blocks()
    if len(steps) < 5:
        sys.exit("the README's section has changed its form: nothing to run")
    for ready, code in steps:
        print(f"$ {code}", flush=True)
        if ready:
            serve(code, ready)
        else:
            output = finish(code)
    records = [line for line in output.splitlines() if "id:" in line]
    if len(records) != 20:
        sys.exit(f"the consumer printed {len(records)} records of 20")
    print("README: 20 of 20 events arrived")


if __name__ == "__main__":
    try:
        main()
    finally:
        for server in reversed(SERVERS):
            try:
                os.killpg(server.pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
