"""What the networks cost, in closed formulas of their configuration: parameters, FLOPs per image, numbers kept.

part.py         one part of a training, and what is known of it
transformer.py  VAR's and M-VAR's blocks, the teacher's cross-attention
tokenizer.py    encoder, quantiser and decoder, layer by layer

One multiply-add is 2 FLOPs; what is not a matrix product or a convolution is left out, as usual. Tests hold the
formulas against the built networks and torch's FLOP counter. Never imports torch.
"""
