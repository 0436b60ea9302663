"""Train a population of Transformers to translate under PBT.

    python -m experiments.translation                       # generated number phrases, no download
    python -m experiments.translation --data wmt14          # train.en, train.de, valid.en, ...
    python -m experiments.translation --exploit none        # random search with equal budget

Members are compared by the BLEU of greedy translations of fresh validation sentences. The score is
the BLEU of test sentences with beam search. The same command again resumes. The preset "paper" has
network, population and ready interval of "Population Based Training of Neural Networks", Jaderberg
et al. 2017 (https://arxiv.org/abs/1711.09846), section 4.2. Install the extra "translation" first:

    pip install -c constraints.txt -e '.[translation]'
"""

from experiments import cli, launch, presets


@cli.quiet
def main() -> None:
    """Parse the command line and run."""
    settings = cli.parse(presets.TRANSLATION, __doc__)
    launch.run_population(settings.name(), settings, presets.TRANSLATION)


if __name__ == "__main__":
    main()
