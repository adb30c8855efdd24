"""The page of a run and its figures, drawn with matplotlib and jinja2 (the extra ``report``)."""
