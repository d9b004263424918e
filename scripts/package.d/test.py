"""The package in a bare Debian: see scripts/package-test. It runs in namespaces of its own, and ends with them."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import tempfile
import threading

from common import BARE, PACKAGE, PATIENCE, first_hour, must, ok, run, servers, until, wires


class Bare:
    """A bare Debian in a directory of this mount namespace."""

    def __init__(self):
        top = tempfile.mkdtemp()
        ok("mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", top)
        self.root = f"{top}/root"
        os.mkdir(self.root)
        ok("tar", "-C", self.root, "-xf", BARE)
        for kind, at in (("proc", "proc"), ("sysfs", "sys"), ("tmpfs", "run")):
            ok("mount", "-t", kind, kind, f"{self.root}/{at}")
        ok("mount", "--bind", "/dev", f"{self.root}/dev")

    def inside(self, *words):
        return ["chroot", self.root, *words]

    def ok(self, *words):
        return ok(*self.inside("env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C", *words))

    def path(self, inside):
        return self.root + inside

    def files(self):
        """Everything there but what dpkg itself remembers."""
        found = set()
        for folder, folders, names in os.walk(self.root):
            short = folder[len(self.root):] or "/"
            if short in ("/proc", "/sys", "/dev", "/run", "/tmp", "/var/lib/dpkg", "/var/cache", "/var/log"):
                folders.clear()
                continue
            found.update(os.path.join(short, name) for name in names + folders)
        return found


class Manager:
    """What systemd does for the unit: its directories, ExecStartPre and ExecStart, ExecReload, the end; and it listens."""

    def __init__(self, bare):
        self.bare = bare
        self.unit = {}
        self.heard = []
        self.process = None

    def start(self):
        with open(self.bare.path("/lib/systemd/system/dispatcher.service")) as f:
            self.unit = dict(line.strip().split("=", 1) for line in f if "=" in line and not line.startswith("#"))
        must(os.path.exists(self.bare.path(self.unit["ConditionPathExists"])), "the condition of the unit does not hold")
        for what, where in (("LogsDirectory", "/var/log"), ("StateDirectory", "/var/lib"), ("RuntimeDirectory", "/run")):
            os.makedirs(self.bare.path(f"{where}/{self.unit[what]}"), exist_ok=True)
        ok(*self.bare.inside(*shlex.split(self.unit["ExecStartPre"])))
        path = self.bare.path("/run/notify")
        if os.path.exists(path):
            os.unlink(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        threading.Thread(target=self.listen, args=(self.socket,), daemon=True).start()
        must(self.unit["Type"] == "notify" and int(self.unit["WatchdogSec"]) > 0, "the unit is of another type")
        usec = str(int(self.unit["WatchdogSec"]) * 1_000_000 // 30)
        words = ["env", "NOTIFY_SOCKET=/run/notify", f"WATCHDOG_USEC={usec}", *shlex.split(self.unit["ExecStart"])]
        self.log = open(self.bare.path("/run/journal"), "a+")
        self.process = subprocess.Popen(self.bare.inside(*words), stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.hears("READY=1")
        self.hears("WATCHDOG=1")

    def listen(self, sock):
        while True:
            self.heard.append(sock.recv(4096).decode())

    def hears(self, what):
        end = lambda: any(what in text for text in self.heard) or self.process.poll() is not None  # noqa: E731
        until(end, f"{what}; so far: {self.heard}")
        must(any(what in text for text in self.heard), f"it ended before {what}: {self.journal()}")

    def journal(self):
        with open(self.bare.path("/run/journal")) as f:
            return f.read()[-1500:]

    def reload(self):
        """Another process takes over, and is the service from then on."""
        self.heard.clear()
        words = ["env", "NOTIFY_SOCKET=/run/notify", *shlex.split(self.unit["ExecReload"])]
        done = subprocess.run(self.bare.inside(*words), stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, timeout=PATIENCE)
        must(done.returncode == 0, f"no upgrade: {self.journal()}")
        until(lambda: any("MAINPID=" in text and "READY=1" in text for text in self.heard), f"MAINPID and READY; so far: {self.heard}")
        must(self.process.wait(PATIENCE) == 0, f"the one before did not end well: {self.journal()}")
        until(lambda: any("WATCHDOG=1" in text for text in self.heard), "WATCHDOG=1 of the one that took over")
        self.pid = int(next(re.search(r"MAINPID=(\d+)\nREADY", text).group(1) for text in self.heard if "READY=1" in text))

    def stop(self):
        os.kill(self.pid, getattr(signal, self.unit["KillSignal"]))
        until(lambda: any("STOPPING=1" in text for text in self.heard), f"STOPPING=1; so far: {self.heard}")
        until(lambda: not running(self.pid), f"its end: {self.journal()}")


def running(pid):
    """One that has ended, and whose end nobody has asked for, does not run."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def main():
    # /run/netns is wanted here, too.
    ok("mount", "--make-rprivate", "/")
    ok("mount", "-t", "tmpfs", "tmpfs", "/run")
    bare = Bare()
    before = bare.files()
    wires()
    with tempfile.TemporaryDirectory() as folder:
        servers(folder)
        ok("cp", PACKAGE, bare.path("/tmp/dispatcher.deb"))
        manager = Manager(bare)
        done = []
        for command in first_hour():
            words = shlex.split(command)
            if words[:2] == ["dpkg", "-i"]:
                bare.ok("dpkg", "-i", "/tmp/dispatcher.deb")
                must(not os.path.exists(bare.path("/etc/systemd/system/multi-user.target.wants/dispatcher.service")), "it was enabled by its installation")
            elif words[0] == "systemctl" and "--now" in words:
                manager.start()
            elif words[:2] == ["systemctl", "reload"]:
                manager.reload()
            elif words[0] == "curl":
                said = until(lambda: run("ip", "netns", "exec", "clients", *words).stdout, command)
                must("s_server" in said, said[-300:])
            elif "$EDITOR" in command:
                # The wires are called as in the example.
                pass
            else:
                said = bare.ok(*words)
                must(said.strip() or words[0] != "dispatcher", f"{command}: it says nothing")
            done.append(command)
        at = "/usr/bin/dispatcher"
        until(lambda: all(b["observed"]["check"]["state"] == "up" for b in json.loads(bare.ok(at, "ctl", "show", "backends", "--json"))), "both servers up, by their checks")
        # Logs are moved away as logrotate has it.
        with open(bare.path("/etc/logrotate.d/dispatcher")) as f:
            script = re.search(r"postrotate\n(.*?)endscript", f.read(), re.S).group(1)
        log = bare.path("/var/log/dispatcher/connections.jsonl")
        until(lambda: os.path.getsize(log) > 0, "a line in the connections log")
        os.rename(log, log + ".1")
        ok(*bare.inside("sh", "-ec", script))
        must(os.path.exists(log), "the log was not opened anew")
        url = ["ip", "netns", "exec", "clients", "curl", "-sk", "-m", "5", "https://192.0.2.10/"]
        until(lambda: run(*url).stdout, "an answer")
        until(lambda: os.path.getsize(log) > 0, "a line in the new connections log")
        manager.stop()
    # A file that somebody has changed is kept by `remove`, and goes with `purge`.
    for page in os.listdir(bare.path("/usr/share/man/man1")) if os.path.isdir(bare.path("/usr/share/man/man1")) else []:
        must(not page.startswith("dispatcher") or page.endswith(".gz"), page)
    with open(bare.path("/etc/dispatcher/dispatcher.toml"), "a") as f:
        f.write("# ours\n")
    bare.ok("dpkg", "--remove", "dispatcher")
    must(os.path.exists(bare.path("/etc/dispatcher/dispatcher.toml")), "the configuration went with the program")
    bare.ok("dpkg", "--purge", "dispatcher")
    left = sorted(f for f in bare.files() - before if not f.startswith(("/var/lib/dpkg", "/var/log/dpkg", "/etc/ld.so.cache")))
    must(not left, f"left behind by purge: {left}")
    must(not os.path.exists(bare.path("/var/log/dispatcher")), "logs are left behind by purge")
    print(f"package-test: installed, run by {len(done)} commands of the first hour, reloaded, rotated, removed: nothing is left")


main()
