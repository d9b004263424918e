"""Reports of `dispatcher replay`, in a browser."""

import os
import subprocess

import lab
from browser import Browser
from lab import DISPATCHER, ROOT, check
from registry import test

AXE = os.environ.get("AXE")
CONFIG = """\
[[port]]
name = "net"
driver = "af-packet:eth0"
ip = ["10.9.0.1/24"]

[[service]]
name = "shop"
listen = ["10.0.0.1:443", "10.0.0.2:443", "10.0.0.3:443", "10.0.0.4:443"]
pool = "web"

[pool.web]
backend = [%s]
"""


def backends(n):
    return CONFIG % ", ".join(f'{{ name = "web{i}", address = "10.9.0.1{i}:443" }}' for i in range(1, n + 1))


# In a machine of its own the files are elsewhere.
if "APPLIANCE_DIR" not in os.environ:
    @test
    def replay_report(t):
        """Reports of a replay in Chromium, on a phone and a desktop, light and dark: nothing is asked for, words explain themselves without a mouse, and axe-core has nothing against them"""
        fleet, others = (os.path.join(ROOT, "testdata/captures", name) for name in ("fleet_tls12_sessionid.pcap", "interleaved_many_clients.pcap"))
        path = lambda name: f"{lab.WORK}/report-{name}"
        for n in (2, 3):
            with open(path(f"{n}.toml"), "w") as f:
                f.write(backends(n))
        reports = {
            "recorded": [fleet],
            "reenacted": [others, "--backend", "web1=10.9.0.11:443,max-handshakes=10", "--backend", "web2=10.9.0.12:443"],
            "change": [fleet, "--config", path("3.toml"), "--next-config", path("2.toml")],
        }
        browser = Browser()
        t.undo.append(browser.close)
        found, urls = [], set()
        for name, flags in reports.items():
            done = subprocess.run([DISPATCHER, "replay", *flags, "--report", path(name + ".html")], capture_output=True, text=True, timeout=120)
            check(done.returncode == 0, f"{name}: {done.stderr}")
            url = "file://" + path(name + ".html")
            urls.add(url)
            for width, height in ((1440, 900), (390, 844)):
                for dark in (False, True):
                    browser.look(width, height, dark)
                    browser.open(url)
                    browser.wait("document.readyState === 'complete' && document.querySelector('.value') !== null", f"{name}")
                    wide = browser.run("document.documentElement.scrollWidth - innerWidth")
                    check(wide <= 0, f"{name}: at {width} pixels it is {wide} too wide")
                    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
                    if AXE:
                        found += [(name, width, dark, one) for one in browser.audit(AXE)]
            # By the keyboard.
            browser.run("document.querySelector('.term').focus()")
            browser.press("Enter", 13)
            tip = browser.run("document.querySelector('.tip:popover-open')?.innerText")
            check(tip == "TCP connections in the capture.", f"{name}: {tip!r} is said of connections")
            browser.press("Escape", 27)
            check(browser.run("document.querySelector('.tip:popover-open')") is None, f"{name}: the explanation stays")
        check(browser.run("[...document.querySelectorAll('svg.big path')].length") == 0, "the change has a course")
        check(found == [], f"axe-core: {found}")
        check(set(browser.requests) - {"about:blank", "data:,"} <= urls, f"asked for: {set(browser.requests)}")
        check(browser.complaints == [], f"the browser complains: {browser.complaints}")
        return f"{len(reports)} reports; axe-core: {'no violation in 12 looks' if AXE else 'not there'}; nothing asked for"
