"""This package, packed to travel into a container, and the few lines that unpack it there.

So any image with Python will do, on a remote engine too, and what runs inside is never out of date.
"""

import functools
import io
import zipfile
from pathlib import Path

import axpo_sandbox
from axpo_sandbox.docker.frames import HEADER

# Runs as the container's first process. It leaves the work to a child and collects orphans, which only the
# first process can. All processes of the container end with it.
BOOT = f"""
import os, signal, sys
def exactly(length):
    data = b""
    while len(data) < length:
        part = os.read(0, length - len(data))
        if not part:
            sys.exit("the stream ended before the relay came")
        data += part
    return data
if sys.version_info < (3, 11):
    sys.exit("Python 3.11 or newer is needed in the image, not " + sys.version.split()[0])
path = "/tmp/axpo-sandbox-%d.zip" % os.getpid()
with open(path, "wb") as file:
    file.write(exactly(int.from_bytes(exactly({HEADER.size}), "big")))
child = os.fork()
if child == 0:
    sys.path.insert(0, path)
    from axpo_sandbox.docker.relay import main
    main()
    os._exit(0)
os.close(0)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: os._exit(0))
while True:
    done, status = os.wait()
    if done == child:
        os._exit(min(255, abs(os.waitstatus_to_exitcode(status))))
"""


@functools.cache
def bundle() -> bytes:
    """The length of a zip file, then the file: every module of this package."""
    root = Path(axpo_sandbox.__file__).resolve().parent
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*.py")):
            archive.write(path, f"{root.name}/{path.relative_to(root).as_posix()}")
    data = memory.getvalue()
    return HEADER.pack(len(data)) + data
