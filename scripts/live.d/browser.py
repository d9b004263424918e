"""A headless Chromium, driven over the DevTools protocol by a pair of pipes: no port, and nothing to install beside the browser."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

from lab import Failure, check, lab_namespace


class Browser:
    """One tab. Runs among the dispatcher's interfaces, where nothing else can be reached."""

    def __init__(self, namespace="dispatcher"):
        self.home = tempfile.mkdtemp(prefix="browser")
        asks, self.send = os.pipe()
        self.receive, tells = os.pipe()
        # Chromium wants them as its third and fourth.
        run = f'exec "$@" 3<&{asks} 4>&{tells}'
        chromium = [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions",
            "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
            f"--user-data-dir={self.home}", "--remote-debugging-pipe", "about:blank",
        ]
        self.process = subprocess.Popen(
            [*lab_namespace(namespace), "bash", "-c", run, "bash", *chromium], pass_fds=(asks, tells),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "HOME": self.home},
        )
        os.close(asks)
        os.close(tells)
        self.serial, self.rest, self.session = 0, b"", None
        # What the console said, and what was asked for.
        self.complaints, self.requests = [], []
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log"):
                self.call(domain + ".enable")
        except BaseException:
            self.close()
            raise

    def call(self, method, patience=30, **parameters):
        """What it answers to a command."""
        self.serial += 1
        message = {"id": self.serial, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        data, end = json.dumps(message).encode() + b"\0", time.monotonic() + patience
        while data:
            data = data[os.write(self.send, data):]
        while True:
            told = self.next(end, method)
            if told.get("id") == self.serial:
                check("error" not in told, f"the browser, to {method}: {told.get('error')}")
                return told["result"]

    def next(self, end, what):
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.receive], [], [], max(0, end - time.monotonic()))
            check(ready, f"the browser does not answer {what}")
            more = os.read(self.receive, 1 << 20)
            check(more, "the browser has ended")
            self.rest += more
        one, self.rest = self.rest.split(b"\0", 1)
        told = json.loads(one)
        self.note(told.get("method"), told.get("params", {}))
        return told

    def note(self, method, said):
        if method == "Runtime.exceptionThrown":
            details = said["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.complaints.append(said["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])

    def look(self, width, height, dark=False):
        """As on a screen of this size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def open(self, url):
        self.call("Page.navigate", url=url)

    def run(self, script, patience=30):
        """What a script comes to, by JSON; a promise is waited for. Scripts of this kind are not bound by the page's policy."""
        told = self.call("Runtime.evaluate", patience, expression=script, returnByValue=True, awaitPromise=True)
        check("exceptionDetails" not in told, f"{script[:80]}: {told.get('exceptionDetails')}")
        return told["result"].get("value")

    def wait(self, script, what, seconds=20):
        """Until it comes to something true, which is returned."""
        end = time.monotonic() + seconds
        while True:
            value = self.run(script)
            if value:
                return value
            if time.monotonic() > end:
                raise Failure(f"not within {seconds} s: {what}; the page: {self.run('document.body.innerText')[:600]!r}; {self.complaints}")
            time.sleep(0.05)

    def press(self, key, code=0):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, text="\r" if key == "Enter" else "")

    def picture(self, path, whole=False):
        with open(path, "wb") as f:
            f.write(base64.b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]))

    def audit(self, axe):
        """What axe-core has against the page, with the look that it has now."""
        with open(axe) as f:
            self.run(f.read() + "; 0")
        found = self.run("axe.run(document, {resultTypes: ['violations']}).then(r => r.violations.map(v => "
                         "[v.id, v.nodes.length, v.nodes[0].html.slice(0, 200), v.nodes[0].failureSummary.slice(0, 300)]))", 120)
        return found

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for end in (self.send, self.receive):
            os.close(end)
        shutil.rmtree(self.home, ignore_errors=True)
