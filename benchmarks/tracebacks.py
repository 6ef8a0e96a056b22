"""A plug-in of pytest: a line of JSON for each test as it ends, tracebacks included, so that a
session which is cut off leaves what it found. `pytest -p tracebacks`, the file in $TRACEBACKS.
"""

import json
import os


def pytest_runtest_logreport(report):
    if report.when != "call" and report.passed:  # a fixture that did its work
        return
    line = {"test": report.nodeid, "outcome": report.outcome, "seconds": report.duration}
    if report.failed:
        line["traceback"] = report.longreprtext
    with open(os.environ["TRACEBACKS"], "a") as f:
        f.write(json.dumps(line) + "\n")


def pytest_collectreport(report):
    if report.failed:
        with open(os.environ["TRACEBACKS"], "a") as f:
            line = {"test": report.nodeid, "outcome": "failed", "traceback": report.longreprtext}
            f.write(json.dumps(line) + "\n")
