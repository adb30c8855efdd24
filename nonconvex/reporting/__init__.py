"""The page of a run and its figures, by matplotlib and jinja2: the extra ``report``."""
