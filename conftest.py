"""pytest settings for tests/ and, through nbval, for notebooks/ (which is why this file stands at the root)."""

import time
from queue import Empty

import nbval.kernel


def await_reply(self, msg_id, timeout=None):
    """nbval's own method, but a kernel that died is noticed within a second instead of after the whole cell timeout."""
    end = None if timeout is None else time.monotonic() + timeout
    while end is None or time.monotonic() < end:
        try:
            message = self.get_message(stream="shell", timeout=1 if end is None else min(1, end - time.monotonic()))
        except Empty:
            if not self.is_alive():
                raise RuntimeError("The kernel died while this cell ran (out of memory?).") from None
            continue
        if message["parent_header"].get("msg_id") == msg_id:
            if message["content"]["status"] == "aborted":
                raise RuntimeError("Kernel aborted execution request")
            return
    raise Empty


nbval.kernel.RunningKernel.await_reply = await_reply
