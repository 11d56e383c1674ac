"""
Prepare a release: write the changelog's date, build wheel and sdist twice and find them identical, try the wheel in
each Airflow, and say what is left to do.

    python scripts/release.py AIRFLOW…
"""

from __future__ import annotations

import hashlib
import re
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from try_package import DIST, ROOT, build, try_wheel


def main() -> None:
    version = read_version()
    write_date(version)
    packages = build(DIST)
    with tempfile.TemporaryDirectory() as folder:
        again = build(Path(folder) / "dist")
        if digests(packages) != digests(again):
            sys.exit("Two builds of the same tree are not the same: see what writes times or paths into them.")
        print(f"Built twice, the same: {', '.join(path.name for path in packages)}")
        for airflow in sys.argv[1:]:
            try_wheel(packages, Path(folder) / airflow, airflow)
            print(f"Airflow {airflow} lists the wheel")
    print("What is left:\n  take the sentence 'not on a package index yet' out of README.md and docs/install.md")
    print(f"  git commit -am 'Release {version}'\n  git tag -a v{version} -m {version}")
    print(f"  git push origin v{version}")


def digests(packages: list[Path]) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in packages}


def read_version() -> str:
    """Return the version of the package."""
    found = re.search(r'^__version__ = "(.+)"$', (ROOT / "airflow_provider_youcan" / "__init__.py").read_text(), re.M)
    if found is None:
        sys.exit("airflow_provider_youcan/__init__.py has no __version__.")
    return found[1]


def write_date(version: str) -> None:
    """Write today's date into the changelog, in the place of "unreleased"."""
    changelog = ROOT / "CHANGELOG.md"
    text = changelog.read_text()
    today = datetime.now(timezone.utc).date()
    dated, number = re.subn(rf"^## {re.escape(version)} \(unreleased\)$", f"## {version} ({today})", text, flags=re.M)
    if number == 0 and f"## {version} (" not in text:
        sys.exit(f"The changelog has nothing about {version}.")
    changelog.write_text(dated)


if __name__ == "__main__":
    main()
