"""Metrics as Prometheus takes them: the distribution's, as it is."""

import json
import os
import shutil
import subprocess
import urllib.parse

import clients
import lab
from lab import PREFIX, check
from registry import test

AT = "127.0.0.1:9127"
INSIDE = ["ip", "netns", "exec", PREFIX + "-dispatcher"]
DOCS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "prometheus")


def fetch(url):
    """What is answered inside."""
    return subprocess.run([*INSIDE, "curl", "-sf", "-m", "5", url], capture_output=True, text=True, timeout=10).stdout


@test
def prometheus_scrapes(t):
    """A real Prometheus with the rules and alerts of docs/ scrapes the dispatcher: promtool finds nothing wrong, rules have values, a dead server fires its alert"""
    if not shutil.which("prometheus"):
        return "left out: there is no Prometheus (Debian: prometheus)"
    t.servers.want("openssl,openssl")
    d = t.dispatcher("--metrics", AT, "--check", "tcp")
    context = clients.context("1.2", tickets=True)
    _, (session, _, _) = clients.fetch(clients.address(1), context)
    for n in range(5):
        clients.fetch(clients.address(1), context, session=session)
    d.await_log(6)
    text = fetch(f"http://{AT}/metrics")
    judged = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=20)
    check(judged.returncode == 0 and text.count("\n# TYPE") > 30, f"promtool: {judged.stdout}{judged.stderr}")
    folder = os.path.join(lab.WORK, "prometheus")
    os.makedirs(folder, exist_ok=True)
    rules = os.path.join(DOCS, "rules.yml")
    # As it is there, but for its patience.
    with open(os.path.join(DOCS, "alerts.yml")) as f, open(os.path.join(folder, "alerts.yml"), "w") as to:
        to.write(f.read().replace("for: 2m", "for: 1s"))
    with open(os.path.join(folder, "prometheus.yml"), "w") as f:
        json.dump({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [os.path.abspath(rules), os.path.join(folder, "alerts.yml")],
            "scrape_configs": [{"job_name": "dispatcher", "static_configs": [{"targets": [AT]}]}],
        }, f)
    with open(os.path.join(folder, "log"), "w") as log:
        prometheus = subprocess.Popen(
            [*INSIDE, "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data", "--web.listen-address=127.0.0.1:9090"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )
    try:
        def ask(expression):
            said = fetch("http://127.0.0.1:9090/api/v1/query?query=" + urllib.parse.quote(expression))
            result = json.loads(said)["data"]["result"] if said else []
            return float(result[0]["value"][1]) if result else None

        lab.wait_until(lambda: ask("dispatcher_workers") == t_workers(text), 30, "its first scrape")
        lab.wait_until(lambda: ask('sum(dispatcher_resumptions_total{outcome="accepted"})') == 5, 10, "five resumptions")
        lab.wait_until(lambda: ask("sum(worker:dispatcher_busy:ratio_rate5m)") is not None, 20, "the values of a rule")
        check(ask('up{job="dispatcher"}') == 1, "it is not up")
        check(ask('count(ALERTS{alertname="DispatcherBackendDown", alertstate="firing"})') is None, "an alert fires while all is well")
        t.servers.stop(2)
        lab.wait_until(lambda: ask('ALERTS{alertname="DispatcherBackendDown", alertstate="firing"}') == 1, 60, "the alert of a dead server")
        series = ask('count({__name__=~"dispatcher_.+"})')
    finally:
        prometheus.terminate()
        prometheus.wait(20)
    return f"{series:.0f} series"


def t_workers(text):
    """Workers, as the scrape said."""
    return float(next(line.split()[-1] for line in text.splitlines() if line.startswith("dispatcher_workers ")))
