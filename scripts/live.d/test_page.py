"""The status page, in a browser."""

import os
import urllib.request

import clients
import lab
from asking import asked
from browser import Browser
from lab import check
from registry import test

AXE = os.environ.get("AXE")
PORT = 9127
URL = f"http://127.0.0.1:{PORT}/"
CELL = "(name, title) => {const t = [...document.querySelectorAll('table')].find(t => t.getAttribute('aria-labelledby') && t.closest('section').querySelector('h2').textContent.startsWith('Backends'));" \
       "const at = [...t.tHead.rows[0].cells].findIndex(c => c.textContent.trim() === title);" \
       "const row = [...t.tBodies[0].rows].find(r => r.cells[0].textContent.startsWith(name)); return row ? row.cells[at].innerText : null}"


def page(t, *flags, **more):
    """A dispatcher, and a browser before its page."""
    ctl, d = asked(t, "--metrics", f"127.0.0.1:{PORT}", *flags, **more)
    browser = Browser()
    t.undo.append(browser.close)
    browser.look(1440, 900)
    browser.open(URL)
    browser.wait("document.getElementById('live')?.textContent === 'live'", "a page that lives")
    return ctl, d, browser


def cell(name, title):
    return f"({CELL})({name!r}, {title!r})"


# In a machine of its own its loopback is another one.
if "APPLIANCE_DIR" not in os.environ:
    @test
    def status_page(t):
        """The status page in Chromium: a backend's death, return and drain are seen, the keyboard suffices, nothing else is asked for, and axe-core has nothing against it on a phone or a desktop, light or dark"""
        t.servers.want("nginx,nginx,nginx")
        t.undo.append(t.servers.forget)
        ctl, d, browser = page(t, "--check", "tcp,interval=200ms,timeout=200ms,rise=2,fall=2")
        stays = clients.connect()
        t.undo.append(stays.close)
        stays.sendall(b"GET / HTTP/1.0\r\n")
        for name in ("web1", "web2", "web3"):
            browser.wait(f"{cell(name, 'In force')} === 'up'", f"{name} up")
        browser.wait(f"[1, 2, 3].reduce((n, i) => n + Number(({CELL})('web' + i, 'Flows')), 0) > 0", "a client's flow")
        t.servers.stop(2)
        browser.wait(f"{cell('web2', 'In force')} === 'down'", "web2 down")
        why = browser.run(cell("web2", "Observed"))
        check("check tcp" in why and " for" in why, f"why it is down: {why!r}")
        check(browser.run("document.title") == "(1 down) dispatcher", "the title does not tell of it")
        t.servers.start(2)
        browser.wait(f"{cell('web2', 'In force')} === 'up'", "web2 up again")
        browser.wait("document.body.innerText.includes('backend web2 is up')", "the event of its return")
        # What an operator says is text, whatever it looks like.
        markup = "<img src=/x onerror=document.title='taken'>"
        ctl("drain", "web3", "--for", "1h", "--why", markup)
        browser.wait(f"{cell('web3', 'In force')} === 'draining'", "web3 draining")
        check(markup in browser.run(cell("web3", "Override")), "the reason is not shown as it is")
        check(browser.run(cell("web3", "Wanted")) == "up", "what is wanted changed with an override")
        # By the keyboard: the filter, the order, an explanation, pause.
        browser.run("document.getElementById('filter').focus()")
        browser.call("Input.insertText", text="web1")
        check(browser.run(f"{cell('web2', 'Flows')} === null && {cell('web1', 'Flows')} !== null"), "the filter leaves web2")
        browser.run("document.getElementById('filter').value = ''; document.getElementById('filter').dispatchEvent(new Event('input'))")
        browser.run("[...document.querySelectorAll('button.sort')].find(b => b.textContent === 'Flows' && b.closest('section').textContent.startsWith('Backends')).focus()")
        check("Connections" in browser.run("document.getElementById('tip').textContent") and not browser.run("document.getElementById('tip').hidden"), "no explanation")
        browser.press("Escape", 27)
        check(browser.run("document.getElementById('tip').hidden"), "the explanation stays")
        browser.press("Enter", 13)
        check(browser.run("document.activeElement.closest('th').getAttribute('aria-sort')") == "descending", "not sorted")
        found, looks = [], [(1440, 900), (390, 844)]
        for width, height in looks:
            for dark in (False, True):
                browser.look(width, height, dark)
                wide = browser.run("document.documentElement.scrollWidth - innerWidth")
                check(wide <= 0, f"at {width} pixels the page is {wide} too wide")
                if AXE:
                    found += browser.audit(AXE)
        check(found == [], f"axe-core: {found}")
        check(set(browser.requests) - {"about:blank", "data:,"} <= {URL, URL + "status.json"}, f"asked for: {set(browser.requests)}")
        check(browser.complaints == [], f"the browser complains: {browser.complaints}")
        check(browser.run("document.title") == "dispatcher", "markup was taken")
        with lab.inside("dispatcher"), urllib.request.urlopen(URL, timeout=10) as answer:
            policy = answer.headers["Content-Security-Policy"]
        check("default-src 'none'" in policy and "unsafe" not in policy, f"policy: {policy}")
        d.stop()
        browser.wait("document.getElementById('live').textContent.startsWith('no answer')", "that nobody answers")
        return f"death, return and drain seen; axe-core: {'no violation in 4 looks' if AXE else 'not there'}; {len(browser.requests)} requests, all to {URL}"
