"""A worker process with faults: child.py RUN_DIR ..., as `python -m pbt.worker RUN_DIR ...`.

The environment's FAULT is "probe:action:nth": at the nth passage of that probe in this process.
FAULT "sql:kill:TEXT" kills inside a transaction, after the first statement that contains TEXT.
The action is the name of a signal: kill, stop, term or hup.
With FAULT_ONCE, the path of a file to make, only the first process that gets there acts.
"""

import os
import signal
import sys

import shifted_clock
import sqlalchemy as sa

from pbt import worker

shifted_clock.install()

# Tests that nohup started would hand down an ignored SIGHUP.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

point, action, argument = os.environ.get("FAULT", "none:none:0").split(":")
passed = 0


def act():
    if once := os.environ.get("FAULT_ONCE"):
        try:
            os.close(os.open(once, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
    os.kill(os.getpid(), signal.Signals[f"SIG{action.upper()}"])


def probe(name):
    global passed
    passed += name == point
    if name == point and passed == int(argument):
        act()


if point == "sql":

    @sa.event.listens_for(sa.Engine, "after_cursor_execute")
    def after_statement(connection, cursor, statement, parameters, context, executemany):
        if argument in statement:
            act()


sys.exit(worker.main(sys.argv[1:], probe=probe, durable="DURABLE" in os.environ))
