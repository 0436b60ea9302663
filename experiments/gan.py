"""Train a population of GANs under PBT.

    python -m experiments.gan                            # generated images of digits, no download
    python -m experiments.gan --data cifar-10-batches-bin
    python -m experiments.gan --copy generator           # or discriminator: figure 5e
    python -m experiments.gan --exploit none             # random search with equal budget

A member is a DCGAN. Members are compared by the Inception score of fresh images, as seen by a
classifier that was trained on the same data, once per run. The result is the score of other fresh
images, with their Frechet distance to held-out real ones. The same command again resumes. The
preset "paper" has the population and the intervals of "Population Based Training of Neural
Networks", Jaderberg et al. 2017 (https://arxiv.org/abs/1711.09846), section 4.3.
"""

from experiments import cli, launch, presets


@cli.quiet
def main() -> None:
    """Parse the command line and run."""
    settings = cli.parse(presets.GAN, __doc__)
    launch.run_population(settings.name(), settings, presets.GAN)


if __name__ == "__main__":
    main()
