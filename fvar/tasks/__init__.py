"""What is trained: each task gives `fvar.training` its networks, losses and data, and knows nothing of the loop.

tokenizer.py     one tokenizer, of the structure or of the alias residual
var.py           the deployment network, alone or beside its teacher
distill.py       online distillation between the two (Eq. 13)
sample_curve.py  FID and KID of a network in training: a probe beside the loop
"""
