"""Focus states: the optics of defocus, the pyramid made with them, and what its samplers alias.

optics.py    PSF and OTF of a disk and of a Gaussian, radius schedules (Eq. 2)
pyramid.py   x -> focused, digital and residual views L_k, D_k, A_k (Eq. 1, 3, 4)
spectrum.py  power spectra, folding, aliasing energy (Eq. 6-8)
aliasing.py  how much of a view is alias, for any kernel, sampler and size
"""
