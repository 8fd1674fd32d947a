"""beartype as the tests use it: an int is accepted where a float is asked for, as everywhere in Python."""

from beartype import BeartypeConf, beartype

typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))
