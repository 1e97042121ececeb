"""What checks annotations under pytest (see `addopts` in pyproject.toml)."""

from beartype import BeartypeConf, beartype

# An int where a float is asked for is fine, as everywhere in Python (PEP 484).
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
