"""
Build wheel and sdist, check them, and install the wheel into a bare Airflow to see that Airflow lists it.

"Bare" means: Airflow and what the wheel itself asks for, nothing of the development environment.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
LISTED = {
    ("providers", "list"): "airflow-provider-youcan",
    ("providers", "get", "airflow-provider-youcan"): "airflow-provider-youcan",
    ("providers", "hooks"): "youcan",
    ("providers", "links"): "airflow_provider_youcan.links.YouCanOrderLink",
}


def run(*command: str, environment: dict[str, str] | None = None) -> str:
    ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, env=environment)
    if ended.returncode:
        sys.exit(f"{' '.join(command)}\n{ended.stdout}{ended.stderr}")
    return ended.stdout


def main() -> None:
    packages = build(DIST)
    with tempfile.TemporaryDirectory() as folder:
        try_wheel(packages, Path(folder), version("apache-airflow"))
    print(f"{', '.join(path.name for path in packages)}: built, checked, and listed by a bare Airflow")


def build(folder: Path) -> list[Path]:
    """Build wheel and sdist into a folder, in the place of what is in it, and check what is said of them."""
    shutil.rmtree(folder, ignore_errors=True)
    # With the pinned build tools, so that anybody can build the same bytes.
    constraint = ROOT / "constraints" / f"airflow-{version('apache-airflow')}.txt"
    environment = os.environ | {"UV_BUILD_CONSTRAINT": str(constraint), "UV_CONSTRAINT": str(constraint)}
    run(sys.executable, "-m", "build", "--installer", "uv", "--outdir", str(folder), environment=environment)
    packages = sorted(folder.iterdir())
    with ZipFile(next(path for path in packages if path.suffix == ".whl")) as wheel:
        (metadata,) = (wheel.read(name).decode() for name in wheel.namelist() if name.endswith("/METADATA"))
    if relative := re.findall(r"\]\((?!https?:|#)[^)]*\)", metadata):
        sys.exit(f"On an index these links of the README lead nowhere: {', '.join(relative)}")
    run(sys.executable, "-m", "twine", "check", "--strict", *map(str, packages))
    return packages


def try_wheel(packages: list[Path], folder: Path, airflow: str) -> None:
    """Install the wheel into a bare Airflow, and see that Airflow lists it."""
    (wheel,) = (str(path) for path in packages if path.suffix == ".whl")
    uv = str(Path(sys.executable).with_name("uv"))
    run(uv, "venv", "--quiet", "--python", sys.executable, str(folder / "venv"))
    python = folder / "venv" / "bin" / "python"
    constraint = ROOT / "constraints" / f"airflow-{airflow}.txt"
    run(
        *(uv, "pip", "install", "--quiet", "--python", str(python), "--constraint", str(constraint)),
        *(wheel, f"apache-airflow=={airflow}"),
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
    environment["AIRFLOW_HOME"] = str(folder / "home")
    for arguments, expected in LISTED.items():
        # JSON, because a table is cut to the width of a terminal.
        shown = run(str(python), "-m", "airflow", *arguments, "--output", "json", environment=environment)
        if expected not in shown:
            sys.exit(f"airflow {' '.join(arguments)} does not show {expected}:\n{shown}")


if __name__ == "__main__":
    main()
