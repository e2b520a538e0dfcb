"""RMSNorm and the gated activation of 16- and 32-bit training, with their backward passes.

What a backward pass needs beside gradients comes out of the same kernels, since what they cost is
reading and writing: the gradient of the residual stream added up and rounded, and the forward
pass's values, which are computed again rather than kept.
"""
