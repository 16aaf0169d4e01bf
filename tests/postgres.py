"""A PostgreSQL server of the tests' own: in its own folder, also the socket it listens on, never as root, gone afterwards."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path


class Server:
    """A running server; `url` is a database in it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.user = "postgres" if os.geteuid() == 0 else None
        self.programs = Path(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))[-1]).parent
        self.url = f"postgresql://sote@/postgres?host={folder}"  # a port could be taken by another before it starts
        if self.user:
            os.chown(folder, pwd.getpwnam(self.user).pw_uid, pwd.getpwnam(self.user).pw_gid)
        self.run("initdb", "--username=sote", "--auth=trust", "--no-sync", "--encoding=UTF8", "--no-locale")

    def start(self):
        """Starts it; it dies with the process that runs the tests, however that one dies."""
        options = {"listen_addresses": "", "unix_socket_directories": str(self.folder), "fsync": "off", "max_connections": "200"}
        command = ["setpriv", "--pdeathsig", "QUIT", self.programs / "postgres", "-D", self.folder / "data"]
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        log = open(self.folder / "log", "ab")
        self.process = subprocess.Popen([*command, *settings], user=self.user, cwd="/", stdout=log, stderr=log)
        end = time.monotonic() + 300
        while subprocess.run([self.programs / "pg_isready", "-q", "-h", self.folder]).returncode:
            assert self.process.poll() is None and time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.1)

    def stop(self):
        """Stops it at once, as a crash would."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(300)

    def run(self, program, *arguments):
        command = [self.programs / program, "-D", self.folder / "data", *arguments]
        done = subprocess.run(command, user=self.user, cwd="/", capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr + done.stdout


@contextmanager
def running():
    """Yields a started Server."""
    folder = Path(tempfile.mkdtemp(prefix="sote-postgres-"))
    try:
        server = Server(folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
