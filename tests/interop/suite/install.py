"""Installs peers into the cache."""

import os
import pathlib
import shutil
import subprocess
import sys
import threading

# The folder of all that is installed; main.py sets it.
cache = pathlib.Path()

# Where programs are. Those for the system, such as proxies, are not in the path of every user.
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"

OLDEST_NODE = 20

_locks = {}
_locks_lock = threading.Lock()


class InstallError(Exception):
    pass


def once(name):
    """A lock for what several peers share."""
    with _locks_lock:
        return _locks.setdefault(name, threading.Lock())


def command(*arguments, deadline=300, **settings):
    """Runs a command, and returns what it printed."""
    try:
        done = subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=deadline,
            **settings,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallError(str(error)) from error
    if done.returncode != 0:
        last = (done.stdout.strip().splitlines() or ["no output"])[-1]
        raise InstallError(f"{arguments[0]} ended with status {done.returncode}: {last}")
    return done.stdout


def stamped(folder, content, make):
    """Calls `make` unless it has made the folder with the same content before."""
    stamp = folder / "complete"
    with once(str(folder)):
        if not stamp.is_file() or stamp.read_text() != content:
            stamp.unlink(missing_ok=True)
            make()
            stamp.write_text(content)


def python(name, requirements):
    """Makes a Python environment with these packages. Returns its interpreter."""
    folder = cache / name
    interpreter = str(folder / "bin" / "python")

    def make():
        command(sys.executable, "-m", "venv", "--clear", str(folder))
        pip = [interpreter, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        # A requirement may bring options of its own, as --no-deps, so each has its own command.
        plain = [each for each in requirements if " " not in each]
        if plain:
            command(*pip, *plain)
        for each in requirements:
            if " " in each:
                command(*pip, *each.split())

    stamped(folder, "\n".join([sys.version, str(folder), *requirements]), make)
    return interpreter


def debian(what, package):
    """Installs a package of Debian's unless this program or file is there. Returns its version."""
    with once("apt"):
        if not (os.path.exists(what) if "/" in what else shutil.which(what, path=PATH)):
            if os.geteuid() != 0 or shutil.which("apt-get") is None:
                raise InstallError(
                    f"this needs {what}: install it, or run as root on a system with apt-get"
                )
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            command("apt-get", "update", "-qq", env=environment)
            command(
                *("apt-get", "install", "-y", "-qq", "--no-install-recommends", package),
                env=environment,
                deadline=600,
            )
    return command("dpkg-query", "--show", "--showformat", "${Version}", package)


def node():
    """Returns the command of Node 20 or later: the system's, or that of npm's package `node`."""
    if shutil.which("npm") is None:
        debian("npm", "npm")
    version = command("node", "--version").strip() if shutil.which("node") else "none"
    if version != "none" and int(version.removeprefix("v").split(".")[0]) >= OLDEST_NODE:
        return "node"
    return f"{npm('node', ['node@22'])}/node/bin/node"


def npm(name, packages):
    """Installs these packages of npm. Returns the folder that has them."""
    folder = cache / name

    def make():
        folder.mkdir(parents=True, exist_ok=True)
        npm = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund"]
        command(*npm, *packages)

    stamped(folder, "\n".join(packages), make)
    return str(folder / "node_modules")


def c(source, library):
    """Compiles a program in C with a library that pkg-config knows. Returns its path."""
    folder = cache / source.stem
    program = folder / source.stem

    def make():
        folder.mkdir(parents=True, exist_ok=True)
        flags = command("pkg-config", "--cflags", "--libs", library).split()
        warnings = ["-Wall", "-Wextra", "-Werror"]
        command("cc", "-O1", *warnings, "-o", str(program), str(source), *flags)

    version = command("pkg-config", "--modversion", library)
    stamped(folder, version + source.read_text(), make)
    return str(program)
