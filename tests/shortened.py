"""The smoke preset cut down to seconds: real stages on real images, too short to learn anything."""

# 16 px, two scales, few channels: what is tested with these is how stages are run, not what they learn.
SETTINGS = (
    "data.image_size=16", "tokenizer.pyramid.patch_nums=[1,2]", "tokenizer.autoencoder.ch=32",
    "tokenizer.autoencoder.ch_mult=[1,1,1,1]", "tokenizer.autoencoder.num_res_blocks=1", "var.transformer.depth=2",
    "var.transformer.width=32", "var.transformer.heads=2", "var.teacher.head_dim=8", "train.steps=2",
    "train.batch_size=8", "train.eval_images=16", "samples.count=9", "scores.reference_count=9", "runtime.threads=1",
)  # fmt: skip

ARGUMENTS = [word for setting in SETTINGS for word in ("--set", setting)]

if __name__ == "__main__":  # for a shell: python -m studies.run STUDY $(python -m tests.shortened)
    print(*ARGUMENTS)
