"""How good generated images are. `python -m fvar.metrics --help`

features.py   networks that describe images, and features kept by content
inception.py  the network FID is defined by, and its weights
frechet.py    FID, its spread and its limit
compare.py    features of two sets -> FID, KID, precision, recall, IS
spectra.py    aliasing in pixels: log-spectral distance by octave, energy in the top octave
edges.py      aliasing of a round trip: the staircase on slanted edges
shift.py      aliasing of a round trip: is a shifted picture reconstructed as the picture, shifted?
aliasing.py   both, of a tokenizer: `python -m fvar.metrics.aliasing --help`
ssim.py       structural similarity of two images
scale_quality.py   PSNR, SSIM, L1 and rFID of what a tokenizer keeps after each scale
reconstruction.py  prints them: `python -m fvar.metrics.reconstruction --help`
ocr.py        reads rendered words by PP-OCRv4, and counts the characters it misreads
sources.py    where images come from: folders, archives, run directories, data sets
"""
