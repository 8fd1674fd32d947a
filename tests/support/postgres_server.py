"""A PostgreSQL of the system's package in a temporary folder on loopback; initdb refuses root, so root steps down."""

import contextlib
import glob
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest


def binaries():
    """The newest version's folder of programs; None where there is none."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda p: float(Path(p).parent.name))
    return Path(found[-1]) if found else None


def lower_user():
    """The account to run as where we are root; None where we are not."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    pytest.skip("we are root and there is no other account to run PostgreSQL as")


@contextlib.contextmanager
def postgres():
    """The URL of an empty database."""
    place = binaries()
    if place is None:
        pytest.skip("no PostgreSQL in /usr/lib/postgresql")
    user = lower_user()
    as_user = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # not below pytest's folder, which others may not enter
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    try:
        quiet = {"cwd": folder, "capture_output": True, "text": True, **as_user}
        made = subprocess.run(
            [place / "initdb", "-D", folder / "data", "-U", "corollary", "-A", "trust", "--no-sync"],
            check=False,
            **quiet,
        )
        if made.returncode != 0:
            pytest.skip(
                f"initdb failed: {made.stderr.strip().splitlines()[-1] if made.stderr.strip() else 'no reason'}"
            )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=on"
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(
                [place / "postgres", "-D", folder / "data", *options.split()],
                cwd=folder,
                stdout=log,
                stderr=log,
                **as_user,
            )
        try:
            until = time.monotonic() + 30
            ready = [
                place / "pg_isready",
                "-q",
                "-h",
                "127.0.0.1",
                "-p",
                str(port),
                "-U",
                "corollary",
                "-d",
                "postgres",
            ]
            while subprocess.run(ready, check=False, cwd=folder).returncode != 0:
                if server.poll() is not None or time.monotonic() > until:
                    pytest.skip("PostgreSQL does not start: " + (folder / "log").read_text()[-300:])
                time.sleep(0.1)
            yield f"postgresql://corollary@127.0.0.1:{port}/postgres"
        finally:
            server.terminate()
            server.wait(20)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
