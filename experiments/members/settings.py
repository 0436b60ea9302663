"""Check the settings of a learner."""


def check_whole(settings: object, **least: int) -> None:
    """Refuse settings that are no whole numbers, or that are too small.

    Args:
        settings: An object with the settings as attributes.
        **least: Smallest value of each setting.

    Raises:
        ValueError: One line with the name, the value given and the values allowed.
    """
    for name, smallest in least.items():
        value = getattr(settings, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
            raise ValueError(f"{name} {value!r}: use a whole number from {smallest} on")
