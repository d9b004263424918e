"""The licences of what is linked into the program, as their authors ask for it with every copy: prints one document.

Run it where cargo has built the program: it reads the sources that cargo has. Fails when a crate has neither a licence's text nor one that is common to all Debian systems."""

import json
import os
import subprocess
import sys

# Crates that come without the text that their licence wants beside every copy: it is in their repositories.
BESIDE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "notices")
NAMES = ("licen", "copying", "copyright", "notice")


def cargo(*words):
    return subprocess.run(["cargo", *words, "--locked"], check=True, stdout=subprocess.PIPE, text=True).stdout


def linked():
    """(name, version) of all that the program is made of, but for this workspace's own."""
    lines = cargo("tree", "-p", "dispatcher", "-e", "normal", "--prefix", "none", "--format", "{p}").splitlines()
    words = {tuple(line.split()[:2]) for line in lines if line and "(/" not in line}
    return {(name, version.removeprefix("v")) for name, version in words}


def texts(package):
    folder = os.path.dirname(package["manifest_path"])
    files = [os.path.join(folder, f) for f in sorted(os.listdir(folder)) if f.lower().startswith(NAMES)]
    files += [path for path in [os.path.join(BESIDE, package["name"])] if os.path.exists(path)]
    for path in filter(os.path.isfile, files):
        with open(path, encoding="utf-8", errors="replace") as f:
            yield "\n".join(line.rstrip() for line in f.read().strip().splitlines())


def main():
    wanted = linked()
    packages = [p for p in json.loads(cargo("metadata", "--format-version", "1"))["packages"] if (p["name"], p["version"]) in wanted]
    print("The dispatcher is made of its own sources and of the following packages.\n")
    whose, without = {}, []
    for package in sorted(packages, key=lambda p: (p["name"], p["version"])):
        name, licence = f"{package['name']} {package['version']}", package["license"] or "see below"
        print(f"{name}: {licence}; {package['repository'] or 'https://crates.io/crates/' + package['name']}")
        found = list(texts(package))
        for text in found:
            whose.setdefault(text, []).append(name)
        if not found and "Apache-2.0" not in licence:
            without.append(name)
    print("\nApache-2.0 stands in /usr/share/common-licenses/Apache-2.0 as well.")
    for text, names in whose.items():
        print("\n" + "-" * 80 + "\n" + ", ".join(names) + "\n" + "-" * 80 + "\n\n" + text)
    if without:
        sys.exit(f"no licence's text of: {', '.join(without)}; put it into scripts/package.d/notices/")


main()
