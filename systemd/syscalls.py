"""Says which system calls of a trace the unit's filter would refuse:  syscalls.py UNIT TRACE

TRACE is what `strace -f -c -o TRACE` has written. systemd-analyze knows what is in the filter's sets.
"""

import pathlib
import subprocess
import sys


def members(name):
    """System calls of a set such as @system-service, or the call itself."""
    if not name.startswith("@"):
        return {name}
    command = ["systemd-analyze", "syscall-filter", "--no-pager", name]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[1:]
    lines = [line.strip() for line in lines]
    return set().union(*(members(line) for line in lines if line and line[0] != "#"))


unit, trace = (pathlib.Path(name).read_text() for name in sys.argv[1:])
allowed = members("@default")
for line in unit.splitlines():
    if line.startswith("SystemCallFilter="):
        names = line.split("=", 1)[1]
        some = set().union(*(members(name) for name in names.lstrip("~").split()))
        allowed = allowed - some if names.startswith("~") else allowed | some
rows = [line.split() for line in trace.splitlines()]
used = {row[-1] for row in rows if row and row[0].replace(".", "").isdigit() and row[-1] != "total"}
if len(used) < 20:
    sys.exit(f"systemd: the trace has {len(used)} system calls: that cannot be all")
if refused := sorted(used - allowed):
    sys.exit(f"systemd: the unit's filter refuses {', '.join(refused)}")
print(f"systemd: the unit's filter allows all {len(used)} system calls of the demo")
