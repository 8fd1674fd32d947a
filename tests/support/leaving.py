"""How a test's own process under torchrun ends."""

import os
import sys

from torch import distributed


def leave():
    """End this process, its work done and written.

    Not by the interpreter's own end: gloo's threads may still hold tensors of the last collective, and a thread that
    then asks for the interpreter aborts the process ("terminate called without an active exception"), about one run in
    a hundred under FSDP2 on a busy machine.
    """
    distributed.barrier()
    distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
