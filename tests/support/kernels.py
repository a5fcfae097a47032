"""Jupyter kernels forked from a process that has imported the library."""

import os
import signal

from fresh import context
from ipykernel.kernelapp import launch_new_instance


class Forked:
    """A kernel's process, with what Jupyter asks of a `subprocess.Popen`."""

    stdin = stdout = stderr = None

    def __init__(self, command, *, cwd, **_):
        parent, child = context().Pipe()
        self._process = context().Process(target=_serve, args=(command[3:], str(cwd), child))
        self._process.start()
        assert parent.recv() == "leads its group"  # which Jupyter signals as a whole
        self.pid = self._process.pid

    def poll(self):
        return self._process.exitcode

    def wait(self):
        self._process.join()
        return self._process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def _serve(arguments, folder, parent):
    os.setsid()
    os.chdir(folder)
    parent.send("leads its group")
    # A kernel does so unasked if matplotlib is not yet imported.
    launch_new_instance(argv=[*arguments, "--matplotlib=inline"])
