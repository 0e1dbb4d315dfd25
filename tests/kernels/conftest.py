"""Without a GPU, Triton's kernels run in its interpreter; it has to be told before they exist."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
