"""`trainwright alerts ...`: be told when a job failed, is lost or stuck, or a metric is beyond a bound."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from trainwright.cli.numbers import at_least


def run(argv: Sequence[str]) -> int:
    """Add, list, try or remove alerts."""
    args = _parser().parse_args(argv)
    from trainwright.jobs.alerts import rules

    if args.action == "add":
        rule = rules.add(on=args.on.split(",") if args.on else (), stuck=args.stuck, metric=args.metric, jobs=args.jobs,
                         webhook=args.webhook, command=args.command)  # fmt: skip
        print(f"{rule.key}  {rule}\nKept in {rules.file()}. trainwright alerts test {rule.key} sends one now.")
    elif args.action == "list":
        known = rules.read()
        for rule in known:
            print(f"{rule.key}  {rule}")
        if not known:
            print("There are no alerts. trainwright alerts add --on FAILED,LOST --webhook https://...")
    elif args.action == "rm":
        print(f"Forgotten: {rules.remove(args.alert)}")
    else:
        return _test(args.alert)
    return 0


def _test(key: str) -> int:
    """Send an alert that says that it is one."""
    from trainwright.errors import JobError, did_you_mean
    from trainwright.jobs.alerts import rules, send

    known = {rule.key: rule for rule in rules.read()}
    if key not in known:
        raise JobError(f"There is no alert '{key}'.{did_you_mean(key, known)} trainwright alerts list shows them.")
    told = {"text": "A test of an alert of Trainwright.", "job": "", "name": "test", "experiment": "", "status": "",
            "what": "test", "alert": key}  # fmt: skip
    try:
        send.once(known[key], told)
    except send.FAILURES as error:
        raise JobError(f"It could not be sent: {error}") from None
    print("Sent.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trainwright alerts", description="Be told of jobs: by a worker, the page, or the job itself."
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    add = actions.add_parser("add", help="tell of what happens from now on")
    add.add_argument("--on", default="", metavar="STATUS,...", help="how jobs end: FAILED,LOST")
    add.add_argument("--stuck", type=at_least(0.0), default=0.0, metavar="S", help="nothing has moved for S seconds")
    add.add_argument("--metric", default="", metavar="BOUND", help="a value is beyond it, or none: 'eval/loss > 3'")
    add.add_argument("--jobs", default="", metavar="TEXT", help="of jobs whose name, experiment or id holds it (all)")
    where = add.add_mutually_exclusive_group(required=True)
    where.add_argument("--webhook", default="", metavar="URL", help="gets a POST of JSON with `text`")
    where.add_argument("--command", default="", metavar="LINE", help="a shell's; it has $TRAINWRIGHT_ALERT_TEXT")
    actions.add_parser("list", help="all alerts")
    for name, what in (("test", "send one now"), ("rm", "forget one")):
        actions.add_parser(name, help=what).add_argument("alert", metavar="ALERT")
    return parser
