"""The networks that predict tokens: VAR, which is deployed, and the teacher that sees the alias residual.

var.py        the deployment network, key for key the original's; scale-by-scale generation with a cache
blocks.py     a transformer block, its class modulation and the output head
attention.py  attention over a prefix of scales, and its cache of keys and values
gradients.py  the same products with cheaper backward passes, for training
teacher.py    the teacher: the same network with Alias-Gate Cross-Attention (Eq. 9-12)
loading.py    a network from a state dict, and what a state dict is the weights of
"""
