"""What a worker starts: `python job.py JOB NAME script.py ...`, a Python command as a job.

It lies in a folder of its own, for that is the first place where modules are looked for until the job's own is: neither
the folder that the worker is in nor this package takes the standard library's place.
"""

import sys

started = frozenset(sys.modules)

from trainwright.jobs.worker import launch, leftovers  # noqa: E402

if __name__ == "__main__":
    leftovers.end_with_this_process()
    sys.orig_argv[:] = launch.without_us(sys.orig_argv, sys.argv)
    sys.exit(launch.main(sys.argv[1:], started))
