"""Pictures of a report as people see it, at three widths, light and dark: `python -m experiments.screenshots REPORT`.

Needs Chromium with its driver (Debian's `chromium` and `chromium-driver`) and the `test` extra. What lies in
`experiments/results/` is of `jaxame demo`: `report.1280.png`, `report.820-dark.png` and `report.390.png`, and
`report.png`, which the README shows.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxame import checks

VIEWS = {
    "": (1100, 1220, False),
    ".1280": (1280, 2400, False),
    ".820-dark": (820, 2400, True),
    ".390": (390, 2400, False),
}
"""By what the file's name has: width and height in pixels, and whether in dark colours."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the command."""

    report: Annotated[Path, tyro.conf.Positional]
    """File that `jaxame report` or `jaxame demo` wrote."""
    out: Path = Path("experiments/results")
    """Folder for the pictures."""


def open_chromium() -> Any:
    """Return a driver of Chromium without a window.

    Raises:
      ValueError: if there is none.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    checks.require(bool(program and driver), "chromium and chromedriver", f"{program} and {driver}")
    options = webdriver.ChromeOptions()
    options.binary_location = str(program)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(str(driver)))


def view(browser: Any, width: int, height: int = 1400, dark: bool = False) -> None:
    """Give the page a size in pixels, and light or dark colours."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def main(settings: Settings) -> None:
    """Take the pictures."""
    browser = open_chromium()
    for name, (width, height, dark) in VIEWS.items():
        view(browser, width, height, dark)
        browser.get(settings.report.resolve().as_uri())
        browser.save_screenshot(str(settings.out / f"report{name}.png"))
    browser.quit()


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
